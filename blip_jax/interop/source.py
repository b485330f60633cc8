"""Where weights come from: a file, a folder, the name of a released checkpoint, or a hub name."""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from blip_jax.catalogue import Released, list_models
from blip_jax.config import BlipConfig
from blip_jax.interop.folder import import_folder, is_folder
from blip_jax.interop.huggingface import import_huggingface
from blip_jax.interop.initialisers import read_tensors
from blip_jax.interop.report import Imported
from blip_jax.interop.salesforce import import_salesforce
from blip_jax.models.vit import resize_positions
from blip_jax.tokenizer import Tokenizer

CHECKPOINTS = "BLIP_CHECKPOINTS"  # environment variable: the folder that holds released files
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin"]


def load_source(
    source: str | Path,
    *,
    image_size: int | None = None,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> Imported:
    """Any BLIP weights, on the conventions of their source.

    Args:
      source: a .pth, .pt, .bin or .safetensors file in the original's names, a folder of ours
        or of Hugging Face, a name of `list_models()`, or a hub name.
      image_size: pixels; positions are interpolated to it as torch does. As stored by default.
      vision_heads, text_heads: attention heads, where a .pth's are not 64 wide.

    Raises:
      FileNotFoundError: there is no such thing here, or at the hub.
      ValueError: what is there is no BLIP; the file is named with all that is wrong.
    """
    path = resolve(source)
    if is_folder(path):
        imported = import_folder(path)
    elif path.is_dir():
        imported = import_huggingface(path, vision_heads=vision_heads, text_heads=text_heads)
    else:
        imported = import_file(path, vision_heads, text_heads)
    return resized(imported, image_size) if image_size else imported


def import_file(path: Path, vision_heads: int | None, text_heads: int | None) -> Imported:
    """A file of the original's, or of LAVIS; ValueErrors name it."""
    # Not kept here, so that the import frees one by one what it has placed.
    held = [read_tensors(path)]
    try:
        return import_salesforce(held.pop(), vision_heads=vision_heads, text_heads=text_heads)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def resolve(source: str | Path) -> Path:
    """A file or folder on this machine; hub names are fetched, or taken from the hub's cache.

    Raises:
      FileNotFoundError: nothing of that name, with what could be done about it.
    """
    path = Path(source)
    if path.exists():
        return path
    for model in list_models():
        if model.name == str(source):
            return released_file(model)
    if isinstance(source, str) and _HUB_NAME.fullmatch(source):
        return hub_folder(source)
    names = ", ".join(model.name for model in list_models())
    raise FileNotFoundError(f"{source} is no file, no folder, no hub name and none of {names}")


def released_file(model: Released) -> Path:
    """The file of a released checkpoint in the folder that BLIP_CHECKPOINTS names."""
    folder = os.environ.get(CHECKPOINTS)
    if folder and (Path(folder) / model.file).is_file():
        return Path(folder) / model.file
    raise FileNotFoundError(
        f"{model.name} is not here: download {model.source} "
        f"into the folder that the environment variable {CHECKPOINTS} names"
    )


def hub_folder(name: str) -> Path:
    """The snapshot of a hub name."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as error:  # the library raises many kinds: offline, unknown, gated
        raise FileNotFoundError(
            f"{name} is neither a file nor a folder here, and the hub gave no model of that "
            f"name ({error})"
        ) from error


def resized(imported: Imported, image_size: int) -> Imported:
    """The same model at another image size, teacher included.

    Raises:
      ValueError: the size is no multiple of the patch.
    """
    config, report = imported.config, imported.report
    vision = dataclasses.replace(config.vision, image_size=image_size)
    changed = dataclasses.replace(config, vision=vision)
    if vision.grid == config.vision.grid:
        return dataclasses.replace(imported, config=changed)
    trees = [imported.params, *([imported.memory["teacher"]] if imported.memory else [])]
    for tree in trees:
        grid = (vision.grid, vision.grid)
        tree["vision"]["positions"] = np.asarray(
            resize_positions(tree["vision"]["positions"], grid)
        )
    was = config.vision.image_size
    report.resized.append(f"positions from {was} to {image_size} pixels")
    return dataclasses.replace(imported, config=changed)


def find_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder or beside a file; else bert-base-uncased, as the original's.

    Raises:
      FileNotFoundError: none there, and the hub gave no bert-base-uncased.
    """
    if is_folder(path):
        return Tokenizer.from_source(path / "tokenizer")
    folder = path if path.is_dir() else path.parent
    for place in (folder / "tokenizer", folder):
        if any((place / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            return Tokenizer.from_source(place)
    return Tokenizer.from_source("bert-base-uncased")


def with_tokenizer(config: BlipConfig, tokenizer: Tokenizer) -> BlipConfig:
    """The config with the tokenizer's special ids.

    Raises:
      ValueError: the model has fewer word embeddings than the tokenizer has tokens.
    """
    if tokenizer.vocab_size > config.text.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, "
            f"the model {config.text.vocab_size} word embeddings"
        )
    names = ("pad_id", "cls_id", "sep_id", "dec_id", "enc_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    return dataclasses.replace(config, text=dataclasses.replace(config.text, **ids))
