"""The training loop, from top to bottom."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from blip_jax.models.blip import Params
from blip_jax.train.checkpoint import Checkpoints
from blip_jax.train.mesh import make_mesh, put_batch
from blip_jax.train.metrics import MetricWriter
from blip_jax.train.optimizer import frozen, make_optimizer, schedule
from blip_jax.train.state import Task, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run lives, how it is named on the progress bar, and its settings."""

    folder: Path
    name: str
    config: ConfigDict  # steps, batch_size, seed, log_every, checkpoint_every, optimizer, mesh


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def train(run: Run, task: Task, params: Params, data: Any) -> Params:
    """Trains `task` from `params` for `config.steps` steps, or from the newest checkpoint.

    Args:
      run: folder, name and settings.
      task: the objective.
      params: initial parameters; not used where a checkpoint is found.
      data: a Grain dataset that yields batches of `config.batch_size`, for ever.

    Returns:
      The parameters after the last step.

    Raises:
      ValueError: batch size, mesh or group do not fit each other.
      DivergedError: the loss became NaN or infinite; the step is named, and the checkpoints
        before it are kept.
    """
    config = run.config
    mesh = make_mesh(config.mesh.to_dict())
    check_batch(config.batch_size, mesh)
    task.check(config.batch_size)
    optimizer = make_optimizer(config.optimizer, config.steps)
    rate = schedule(config.optimizer, config.steps)
    writer = MetricWriter(run.folder)
    with (
        jax.set_mesh(mesh),
        Checkpoints(run.folder / "checkpoints", config.checkpoint_every) as checkpoints,
    ):
        still = frozen(config.optimizer.multipliers)
        state = init_state(task, params, optimizer, config.seed, mesh, still)
        layout = jax.tree.map(lambda x: x.sharding, state)
        train_step = make_train_step(task, optimizer, layout, mesh, still)
        iterator = iter(data)
        state = checkpoints.restore(state, iterator) or state
        first = int(state.step)
        with tqdm(
            total=config.steps, initial=first, desc=run.name, unit="step", dynamic_ncols=True
        ) as bar:
            started, waited, pending = time.perf_counter(), 0.0, None
            for step in range(first, config.steps):
                # Order matters: the data iterator moves only after the state was saved.
                checkpoints.save(step, state, iterator)
                waiting = time.perf_counter()
                batch = put_batch(next(iterator), mesh)
                waited += time.perf_counter() - waiting
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = train_step(state, batch)
                if pending:  # one step late, so that the device never waits for the log
                    report(writer, bar, *pending)
                    pending = None
                if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                    elapsed, done = time.perf_counter() - started, step + 1 - first
                    host = {
                        "learning_rate": rate(step),
                        "pairs_per_second": done * config.batch_size / elapsed,
                        "data_wait": waited / elapsed,
                    }
                    pending = (step + 1, {**metrics, **host})
                bar.update()
            if pending:
                report(writer, bar, *pending)
        checkpoints.save(config.steps, state, iterator)
    writer.close()
    return jax.device_get(state.params)


def report(writer: MetricWriter, bar: tqdm, step: int, metrics: dict[str, Any]) -> None:
    """Writes the metrics of a step; raises DivergedError where the loss is not finite."""
    values = {name: float(value) for name, value in sorted(metrics.items())}
    if not math.isfinite(values["loss"]):
        raise DivergedError(
            f"the loss is {values['loss']} at step {step}: lower optimizer.lr, or look at "
            "metrics.jsonl for the step where it turned; the last checkpoint is kept"
        )
    writer.write(step, values)
    bar.set_postfix(loss=f"{values['loss']:.3f}")


def check_batch(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError where the batch cannot be split over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        raise ValueError(
            f"batch_size {batch_size} does not divide over the {ways} devices of the mesh's data "
            "and fsdp axes"
        )
