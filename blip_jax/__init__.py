"""BLIP for JAX and Flax: pre-trained, bootstrapped with CapFilt, fine-tuned and served."""

import importlib
from typing import Any

__version__ = "0.1.0"

# name -> where it lives; loaded when first asked for, so that `import blip_jax` stays quick.
_PUBLIC = {
    "BlipConfig": "blip_jax.config",
    "BLIP_B16": "blip_jax.config",
    "BLIP_L16": "blip_jax.config",
    "TINY": "blip_jax.config",
    "Model": "blip_jax.model",
    "list_models": "blip_jax.catalogue",
    "load": "blip_jax.model",
    "save": "blip_jax.model",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'blip_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
