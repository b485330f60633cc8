"""Parameters with the config and tokenizer they belong to."""

import dataclasses
import functools

import jax
import numpy as np

from blip_jax.config import BlipConfig
from blip_jax.models.blip import Blip, Params
from blip_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Trained:
    """What every function of this package takes; `blip_jax.model.Model` is one with methods."""

    params: Params
    config: BlipConfig
    tokenizer: Tokenizer

    @property
    def blip(self) -> Blip:
        """The pure functions, for anyone who wants them."""
        return Blip(self.config)

    @functools.cached_property
    def on_device(self) -> Params:
        """The parameters where programs run, taken there once and not at every call."""
        return jax.device_put(self.params)

    def texts(self, ids: np.ndarray) -> list[list[str]]:
        """Token ids [B, K, T] -> K texts a row."""
        return [self.tokenizer.decode(row) for row in ids]
