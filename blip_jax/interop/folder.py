"""Our own model folder: model.safetensors, config.json, tokenizer/."""

from pathlib import Path

import jax
import numpy as np

from blip_jax.config import BlipConfig
from blip_jax.interop.initialisers import read_tensors
from blip_jax.interop.memory import Shapes
from blip_jax.interop.names import State, put
from blip_jax.interop.report import Imported, Report, listed
from blip_jax.interop.salesforce import misfits
from blip_jax.models.blip import Blip, Params

_OPTIONAL = "temperature"  # of a retrieval model that came from elsewhere


def is_folder(path: Path) -> bool:
    """Whether it is ours: nobody else keeps the tokenizer in a folder of its own."""
    return (path / "tokenizer").is_dir()


def import_folder(folder: Path) -> Imported:
    """A folder that `blip_jax.save` wrote -> parameters and config.

    Raises:
      FileNotFoundError: a part of it is missing.
      ValueError: the config is none, or the tensors are not what it says.
    """
    for name in ("model.safetensors", "config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a blip_jax model folder: {name} is missing")
    config, expected = read_config(folder / "config.json")
    flat = read_tensors(folder / "model.safetensors")
    if _OPTIONAL not in flat and config.task == "retrieval":
        del expected[_OPTIONAL]
    wrong = listed(misfits(flat, expected))
    if wrong:
        raise ValueError(f"{folder}/model.safetensors does not fit its config.json: {wrong}")
    return Imported(unflatten(flat), config, None, Report())


def read_config(path: Path) -> tuple[BlipConfig, Shapes]:
    """Our config.json and the parameters it stands for; ValueError that names it if it is none."""
    try:
        config = BlipConfig.load(path)
        drawn = jax.eval_shape(Blip(config).init, jax.random.key(0))
        return config, {name: leaf.shape for name, leaf in leaves(drawn).items()}
    except OSError:
        raise
    except Exception as error:  # fields of odd types and sizes can raise nearly anything
        raise ValueError(f"{path} is not the config of a model: {error}") from error


def flatten(tree: Params) -> State:
    """Nested dict -> {"vision/patch/kernel": array}."""
    return {name: np.asarray(leaf, order="C") for name, leaf in leaves(tree).items()}


def leaves(tree: Params, prefix: str = "") -> Params:
    """The same, leaves as they are."""
    flat: Params = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: State) -> Params:
    """Inverse of `flatten`."""
    tree: Params = {}
    for name, value in flat.items():
        put(tree, name, value)
    return tree
