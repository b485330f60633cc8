"""The training loop, from top to bottom."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from blip_jax.errors import Stopped
from blip_jax.models.blip import Params
from blip_jax.models.placement import BATCH_AXES
from blip_jax.train.checkpoint import Checkpoints
from blip_jax.train.folder import RunFolder
from blip_jax.train.goodput import Goodput
from blip_jax.train.hosts import StopSignal, compiled_by_all, is_first
from blip_jax.train.mesh import make_mesh, put_batch
from blip_jax.train.metrics import MetricWriter
from blip_jax.train.optimizer import frozen, make_optimizer, schedule
from blip_jax.train.samples import SampleLog
from blip_jax.train.state import Task, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run lives, how it is named on the progress bar, and its settings."""

    folder: RunFolder
    name: str
    config: ConfigDict  # as `train_settings`

    def publish(self) -> None:
        """Sends what is new to where the run lives; the first process's files are the run's."""
        if is_first():
            self.folder.publish()


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def train(
    run: Run, task: Task, params: Params, data: Any, memory: dict[str, Any] | None = None
) -> Params:
    """Trains `task` from `params` for `config.steps` steps, or from the newest checkpoint.

    Args:
      run: folder, name and settings.
      task: the objective.
      params: initial parameters; not used where a checkpoint is found.
      data: a Grain dataset that yields this process's rows of batches of `config.batch_size`,
        for ever.
      memory: the task's own at the start, such as a checkpoint's teacher and queue; the task
        makes its own if None.

    Returns:
      The parameters after the last step.

    Raises:
      ValueError: batch size, mesh or group do not fit each other.
      DivergedError: the loss became NaN or infinite; the step is named, and the checkpoints
        before it are kept.
      Stopped: SIGTERM came; the state was saved.
    """
    config = run.config
    mesh = make_mesh(config.mesh.to_dict())
    check_batch(config, mesh)
    task.check(config.batch_size // config.accumulate)
    optimizer = make_optimizer(config.optimizer, config.steps)
    rate = schedule(config.optimizer, config.steps)
    still = frozen(config.optimizer.multipliers)
    writer = MetricWriter(run.folder.local, enabled=is_first())
    goodput = Goodput(run.folder.local, enabled=is_first())
    samples = SampleLog(run.folder.local, enabled=is_first())
    checkpoints = Checkpoints(
        run.folder.checkpoints, config.checkpoint_every, config.keep, config.batch_size
    )
    # A second SIGTERM must not cut short what the first one saves.
    with published(run), jax.set_mesh(mesh), StopSignal() as stop, writer, checkpoints:
        with goodput.spent_on("setup"):
            state = init_state(task, params, optimizer, config.seed, mesh, still, memory)
            layout = jax.tree.map(lambda x: x.sharding, state)
            train_step = make_train_step(task, optimizer, layout, mesh, still, config.accumulate)
            iterator = iter(data)
        with goodput.spent_on("restore"):
            state = checkpoints.restore(state, iterator) or state
        first = int(state.step)
        goodput.report(first)
        with tqdm(
            total=config.steps,
            initial=first,
            desc=run.name,
            unit="step",
            dynamic_ncols=True,
            disable=not is_first(),
        ) as bar:
            started, waited, pending = time.perf_counter(), 0.0, None
            # Losses and gradient norms (of which the next parameters are made), not yet looked at.
            recent: dict[int, tuple[jax.Array, jax.Array]] = {}
            for step in range(first, config.steps):
                stopped = stop.came_by(step)
                with goodput.spent_on("checkpoint"):
                    if stopped or step % config.checkpoint_every == 0:
                        check_finite(recent)  # no checkpoint is made of a diverged state
                    # Order matters: the data iterator moves only after the state was saved.
                    if checkpoints.save(step, state, iterator, now=stopped):
                        run.publish()
                if stopped:
                    if pending:
                        report(writer, bar, *pending)
                    goodput.report(step)
                    raise Stopped(f"{run.name} stopped after step {step}, which is saved")
                waiting = time.perf_counter()
                with goodput.spent_on("data"):
                    batch = next(iterator)
                    samples.write(step + 1, batch["uid_hash"])
                    batch = put_batch({k: v for k, v in batch.items() if k != "uid_hash"}, mesh)
                waited += time.perf_counter() - waiting
                if step == first:
                    with goodput.spent_on("compile"):
                        train_step = compiled_by_all(run.name, train_step, state, batch)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = train_step(state, batch)
                if pending:  # one step late, so that the device never waits for the log
                    check_finite(recent)
                    report(writer, bar, *pending)
                    goodput.report(step)
                    pending = None
                recent[step + 1] = metrics["loss"], metrics["grad_norm"]
                if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                    elapsed, done = time.perf_counter() - started, step + 1 - first
                    host = {
                        "learning_rate": rate(step),
                        "pairs_per_second": done * config.batch_size / elapsed,
                        "data_wait": waited / elapsed,
                    }
                    pending = (step + 1, {**metrics, **host})
                bar.update()
            check_finite(recent)
            if pending:
                report(writer, bar, *pending)
        with goodput.spent_on("checkpoint"):
            checkpoints.save(config.steps, state, iterator, now=True)
        goodput.report(config.steps)
    return on_host(state.params)


@contextlib.contextmanager
def published(run: Run) -> Iterator[None]:
    """Sends what the block has written even where it stops or fails."""
    try:
        yield
    finally:
        run.publish()


def on_host(params: Params) -> Params:
    """Whole arrays in the memory of every process, wherever their parts lie."""
    if jax.process_count() == 1:
        return jax.device_get(params)
    return multihost_utils.process_allgather(params, tiled=True)


def report(writer: MetricWriter, bar: tqdm, step: int, metrics: dict[str, Any]) -> None:
    """Writes the metrics of a step."""
    values = {name: float(value) for name, value in sorted(metrics.items())}
    writer.write(step, values)
    bar.set_postfix(loss=f"{values['loss']:.3f}")


def check_finite(recent: dict[int, tuple[jax.Array, jax.Array]]) -> None:
    """Forgets steps whose values are numbers; raises DivergedError that names another."""
    for step, values in recent.items():
        if not all(math.isfinite(float(value)) for value in values):
            raise DivergedError(
                f"the loss or its gradient is no number at step {step}: lower optimizer.lr, or "
                "look at metrics.jsonl for where it turned; the last checkpoint is kept"
            )
    recent.clear()


def check_batch(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError where the batch cannot be cut up, or split over the mesh."""
    for name in ("steps", "log_every", "checkpoint_every", "keep"):
        if config[name] < 1:
            raise ValueError(f"{name} is {config[name]}; expected at least 1")
    if config.accumulate < 1 or config.batch_size % config.accumulate:
        raise ValueError(
            f"accumulate {config.accumulate} must be at least 1 and divide batch_size "
            f"{config.batch_size}"
        )
    part = config.batch_size // config.accumulate
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if part % ways:
        raise ValueError(
            f"batch_size {config.batch_size} in {config.accumulate} part(s) does not divide over "
            f"the {ways} devices of the mesh's slice, data and fsdp axes"
        )
