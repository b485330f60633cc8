"""`import blip_jax` is quick: what is slow to import waits until it is used."""

import subprocess
import sys

HEAVY = {
    "grain", "huggingface_hub", "matplotlib", "optax", "orbax", "pyarrow", "tensorboardX",
    "tensorflow", "tensorflow_datasets", "torch", "transformers",
}  # fmt: skip


def imported_by(statement):
    """Names of the packages that a fresh process holds after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_alone_imports_nothing_heavy():
    assert not imported_by("import blip_jax") & {*HEAVY, "absl", "flax", "jax", "numpy"}


def test_opening_models_needs_jax_and_flax_alone():
    found = imported_by("import blip_jax\nblip_jax.load, blip_jax.save, blip_jax.list_models")
    assert {"jax", "flax"} <= found
    assert not found & HEAVY
