"""The tests' policy: eight CPU devices, no silent broadcasting, no network."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same small programs, some in processes of their own.
CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache/xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and recorded values of the original; not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the parity data folder is not here")
    return SHARED
