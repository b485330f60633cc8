"""The recorded models of the original, opened as ours."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from blip_jax.config import Conventions
from blip_jax.interop.salesforce import import_salesforce
from blip_jax.interop.torch_file import read_torch
from blip_jax.model import Model
from blip_jax.tokenizer import Tokenizer


def original(shared: Path, name: str) -> tuple[Model, dict[str, np.ndarray], dict[str, Any]]:
    """The model of `parity/name`, its recorded arrays, and its texts and sizes."""
    folder = shared / "parity"
    state = read_torch(folder / f"{name}.pth")["model"]
    found = import_salesforce(state, vision_heads=4, text_heads=4)
    tokenizer = Tokenizer.from_source(shared / "bert-base-uncased/vocab.txt")
    facts = json.loads((folder / f"{name}.json").read_text())
    arrays = dict(np.load(folder / f"{name}.npz"))
    return Model(found.params, found.config, tokenizer), arrays, facts


def under(model: Model, **conventions: Any) -> Model:
    """The same model with other conventions."""
    config = dataclasses.replace(model.config, conventions=Conventions(**conventions))
    return dataclasses.replace(model, config=config)
