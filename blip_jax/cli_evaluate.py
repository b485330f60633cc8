"""blip-jax evaluate: how good a model is at a task, in a table, in files and on a page."""

from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from blip_jax.cli_data import bar
from blip_jax.evaluate.published import published
from blip_jax.evaluate.scores import lines, name_of, text_table
from blip_jax.evaluate.write import write_evaluation
from blip_jax.model import load
from blip_jax.tasks import find_task


def run(config: ConfigDict, checkpoint: str | None, out: str) -> None:
    """Evaluates a model as `config.evaluate` says and writes the folder `out`.

    Raises:
      ValueError: the config has no task or no `evaluate`, the task cannot be evaluated, or no
        checkpoint is given.
    """
    task = find_evaluation(config)
    if not config.evaluate.get("annotations"):
        raise ValueError("give --config.evaluate.annotations, the file to evaluate on")
    if not checkpoint:
        raise ValueError("--checkpoint is needed: a model folder, a run's folder or a .pth")
    with bar(f"evaluate {config.task}", "example") as progress:
        found = task.evaluate(load(model_folder(checkpoint)), config.evaluate, progress)
    paper = published(config.task, config.evaluate.get("dataset"))
    told = lines(found, paper)
    data = config.evaluate.annotations
    print(f"{config.task} of {checkpoint} on {found.count:,} examples of {data}")
    if told:
        print(text_table(told, paper))
    for name, why in found.missing.items():
        print(f"{name_of(name)}: not computed: {why}")
    for reason, number in found.skipped.items():
        print(f"{number} left out: {reason.replace('_', ' ')}")
    print(f"page: {write_evaluation(found, config, checkpoint, paper, Path(out))}")


def find_evaluation(config: ConfigDict) -> ModuleType:
    """The module of `config.task`, which has an `evaluate`."""
    if "task" not in config or "evaluate" not in config:
        missing = "task" if "task" not in config else "evaluate"
        raise ValueError(f"the config has no {missing!r}; expected one such as configs/nocaps.py")
    module = find_task(config.task)
    if not hasattr(module, "evaluate"):
        raise ValueError(f"config.task {config.task!r} cannot be evaluated: it has no evaluate()")
    return module


def model_folder(checkpoint: str) -> str:
    """The model itself, where the folder of a training run is given."""
    inside = Path(checkpoint) / "model"
    return str(inside) if inside.is_dir() else checkpoint
