"""The tests' policy: eight CPU devices, no silent broadcasting, no network."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# Most of the time goes to the compiler, much of it to the same small programs, some of them in
# processes of their own.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=1",
        # Later releases than 0.10 have no other emitters, and no such flag.
        "--xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).resolve().parents[1] / ".pytest_cache/xla"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and recorded values of the original; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the parity data folder is not here")
    return SHARED
