"""Run checkpoints: state and data iterator together, through Orbax."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from blip_jax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one run, newest kept. Saving is asynchronous and atomic.

    Use as a context manager: leaving it waits for what is still being written.
    """

    def __init__(self, folder: Path, every: int, keep: int = 2) -> None:
        policies = ocp.training.save_decision_policies
        self._checkpointer = ocp.training.Checkpointer(
            Path(folder).absolute(),
            save_decision_policy=policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )
        saved = self._checkpointer.checkpoints
        self._latest = saved[-1].step if saved else 0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(self, step: int, state: TrainState, data: Any) -> None:
        """Saves if `step`, the state's, is one to save at. `data` is a Grain iterator."""
        if step > self._latest:  # a restored step is there already, and step 0 is no work
            items = {"state": state, "data": data}
            self._checkpointer.save_checkpointables_async(step, items)

    def restore(self, state: TrainState, data: Any) -> TrainState | None:
        """The newest saved state, laid out like `state`; `data` is moved to where it was.

        None if nothing was saved yet.
        """
        if not self._latest:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        items = {"state": abstract, "data": data}
        return self._checkpointer.load_checkpointables(self._latest, items)["state"]
