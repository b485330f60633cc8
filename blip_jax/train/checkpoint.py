"""Run checkpoints: state and data iterator together, through Orbax."""

from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from blip_jax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one run, newest kept. Saving is asynchronous and atomic.

    Use as a context manager: leaving it waits for what is still being written.
    """

    def __init__(self, folder: str, every: int, keep: int, batch_size: int) -> None:
        policies = ocp.training.save_decision_policies
        self._checkpointer = ocp.training.Checkpointer(
            folder,
            save_decision_policy=policies.FixedIntervalPolicy(every),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )
        newest = self._checkpointer.latest
        self._latest = newest.step if newest else 0
        self._batch_size = batch_size

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(self, step: int, state: TrainState, data: Any, now: bool = False) -> bool:
        """Saves if `step`, the state's, is one to save at, or `now`. `data` is a Grain iterator.

        Returns whether a save began.
        """
        if step <= self._latest:  # a restored step is there already, and step 0 is no work
            return False
        facts = {"processes": jax.process_count(), "rows": step * self._batch_size}
        begun = self._checkpointer.save_checkpointables_async(
            step, {"state": state, "data": data}, force=now, custom_metadata=facts
        )
        return begun is not None

    def restore(self, state: TrainState, data: Any) -> TrainState | None:
        """The newest saved state, laid out like `state`; `data` is moved to where it was.

        On as many processes as before the data go on exactly; on another number from the row of
        the whole stream where the run was, so that rows around an unreadable one may come twice
        or not at all. None if nothing was saved yet.

        Raises:
          ValueError: the number of processes changed and the data cannot follow.
        """
        if not self._latest:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        items = {"state": abstract, "data": data}
        facts = self._checkpointer.metadata(self._latest).custom_metadata
        moved = facts["processes"] != jax.process_count()
        if moved:
            del items["data"]
        restored = self._checkpointer.load_checkpointables(self._latest, items)
        if moved:
            skip_rows(data, facts)
        return restored["state"]


def skip_rows(data: Any, facts: dict[str, int]) -> None:
    """Moves a fresh iterator to this process's share of the rows that were read."""
    fresh = data.get_state()
    if set(fresh) != {"next_index"}:
        raise ValueError(
            f"the checkpoint is of {facts['processes']} processes, and these data can go on only "
            f"with as many, not with {jax.process_count()}"
        )
    if facts["rows"] % jax.process_count():
        raise ValueError(
            f"the {facts['rows']} rows read so far cannot be shared equally by "
            f"{jax.process_count()} processes"
        )
    data.set_state({"next_index": facts["rows"] // jax.process_count()})
