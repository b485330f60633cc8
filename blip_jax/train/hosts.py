"""Several processes that train as one, and how they are asked to stop."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint.multihost import get_barrier_sync_fn

_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LATE = 60 * 60 * 1000  # milliseconds that a process waits for another


def join_hosts() -> None:
    """Joins the other processes of this run, where there are any; call before the first array.

    On Cloud TPU, Slurm and Kubernetes jax finds them itself. Elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID tell it.

    Raises:
      ValueError: one of the three variables is missing or no number.
    """
    if any(name in os.environ for name in _GIVEN):
        if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
            raise ValueError("JAX_COORDINATOR_ADDRESS is not set; expected host:port of process 0")
        count, index = (number_in(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(num_processes=count, process_id=index)
    elif is_cluster():
        jax.distributed.initialize()


def number_in(name: str) -> int:
    """The value of an environment variable."""
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise ValueError(f"{name} is {value!r}; expected a number")
    return int(value)


def is_cluster() -> bool:
    """Whether the environment speaks of several processes that jax can find."""
    return (
        os.environ.get("BLIP_JAX_DISTRIBUTED") == "1"
        or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    )


def is_first() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process is here; give each place a name of its own.

    The processes meet in jax's coordination service: a collective gives up on a late one in
    seconds where Gloo carries it.
    """
    get_barrier_sync_fn()(key=name, timeout_ms=_LATE)


def compiled_by_all(name: str, step: Any, *args: Any) -> Any:
    """`step`, jitted, as compiled for `args`, when every process has compiled it."""
    compiled = step.lower(*args).compile()
    wait_for_all(f"{name} compiled")
    return compiled


class StopSignal:
    """Whether SIGTERM came, agreed between all processes so that they save the same step.

    A context manager. Alone, it listens itself; of several processes jax's coordination service
    listens, and lets all go on to a step that none has passed.
    """

    def __init__(self) -> None:
        self._came = threading.Event()
        self._previous: Any = None
        in_main = threading.current_thread() is threading.main_thread()
        self._listens = jax.process_count() == 1 and in_main

    def __enter__(self) -> "StopSignal":
        if self._listens:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._came.set()

    def came_by(self, step: int) -> bool:
        """Whether to save and stop now that `step` steps are done; ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._came.is_set()
