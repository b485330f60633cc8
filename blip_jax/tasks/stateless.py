"""The objective of a task that learns from one batch at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from blip_jax.models.blip import Params

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Compute = Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Stateless:
    """A Task (`blip_jax.train.state`) made of a function `params, batch, key -> loss, metrics`.

    Any size of batch will do, and nothing is remembered from step to step.
    """

    compute: Compute

    def check(self, batch_size: int) -> None:
        """Any batch will do."""

    def init_memory(self, params: Params) -> dict[str, Any]:
        """Nothing."""
        return {}

    def begin(self, params: Params, memory: dict[str, Any]) -> dict[str, Any]:
        """Nothing moves."""
        return memory

    def loss(
        self,
        params: Params,
        memory: dict[str, Any],
        batch: Batch,
        rng: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[dict[str, Any], Metrics]]:
        """Loss; the memory, unchanged; metrics."""
        loss, metrics = self.compute(params, batch, rng)
        return loss, (memory, metrics)
