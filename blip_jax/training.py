"""One run of training, from a config to a model folder: `blip-jax train`, and the loop's stages."""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig, Conventions
from blip_jax.data.examples import Reader, Skips
from blip_jax.data.mixture import Source
from blip_jax.data.pipeline import train_dataset
from blip_jax.files import differing, write_json
from blip_jax.interop.initialisers import check_shapes, initialise
from blip_jax.interop.report import Imported
from blip_jax.interop.source import find_tokenizer, load_source, resolve, with_tokenizer
from blip_jax.model import Model, load, save
from blip_jax.models.blip import Blip, Params
from blip_jax.models.transfer import transfer
from blip_jax.models.vocabulary import with_rows
from blip_jax.tasks import trainable
from blip_jax.tokenizer import Tokenizer
from blip_jax.train.folder import MODEL, RunFolder
from blip_jax.train.hosts import is_first, wait_for_all
from blip_jax.train.loop import Run, train
from blip_jax.train.state import Task

log = logging.getLogger(__name__)


def run_training(config: ConfigDict, workdir: str) -> str:
    """What `config` (see configs/pretrain.py) asks for; returns where the model folder is.

    `workdir` is a folder on disk or an address in a bucket, gs:// or s3://.

    Raises:
      ValueError: a source, a size or a task that does not fit, named.
      FileNotFoundError: data or weights that are not there.
    """
    folder, task = RunFolder(workdir), trainable(config.task)
    found = open_checkpoint(config.init.checkpoint, config.model)
    tokenizer = open_tokenizer(config.tokenizer, config.init.checkpoint)
    model = model_config(config.model, tokenizer, found.config if found else None)
    reader = task.reader(tokenizer, model, config.run.data)
    sources = open_sources(config.sources, reader)
    count_rows(config, sum(source.epoch for source in sources))
    claim(config, folder.local, write=is_first())
    objective = task.objective(Blip(model), config.run)
    run = Run(folder, config.task, config.run)

    def start() -> Start:
        begin = initial(model.as_saved(), config.run.seed, config.init, found)
        # Pre-training goes on with its features; for another task they are stale.
        return begin if config.task == "pretrain" else Start(begin.params)

    fit(run, objective, sources, reader, tokenizer, model, start)
    return f"{workdir.rstrip('/')}/{MODEL}"


def count_rows(config: ConfigDict, rows: float) -> None:
    """Tells a config that asks for it, with `rows` 0, how many an epoch has."""
    if config.get("rows") == 0:
        config.rows = int(rows)


def claim(config: ConfigDict, workdir: Path, write: bool) -> None:
    """Writes config.json into a new workdir, if told to; in an old one, checks that it is the same.

    Raises:
      ValueError: the workdir belongs to another config; the differing keys are named.
    """
    path = workdir / "config.json"
    asked = json.loads(json.dumps(config.to_dict()))
    if not path.exists():
        if write:
            write_json(path, asked)
        return
    found = json.loads(path.read_text())
    if found != asked:
        differ = differing(found, asked)
        raise ValueError(
            f"{workdir} was begun with another config ({', '.join(differ[:5])} differ); "
            "give the same config to carry on, or another --workdir"
        )


def open_checkpoint(checkpoint: str, model: ConfigDict) -> Imported | None:
    """What `init.checkpoint` names, at the image size that the config's `model` section names."""
    if not checkpoint:
        return None
    vision, text = model.get("vision", {}), model.get("text", {})
    return load_source(
        checkpoint,
        image_size=vision.get("image_size"),
        vision_heads=vision.get("heads"),
        text_heads=text.get("heads"),
    )


def open_tokenizer(source: str, checkpoint: str) -> Tokenizer:
    """The tokenizer of a config: the one it names, or where it names none the checkpoint's."""
    if source or not checkpoint:
        return Tokenizer.from_source(source or "bert-base-uncased")
    return find_tokenizer(resolve(checkpoint))


def model_config(
    model: ConfigDict, tokenizer: Tokenizer, start: BlipConfig | None = None
) -> BlipConfig:
    """The config of a model that reads with `tokenizer`: its sizes and its special tokens.

    `model` holds the fields that differ from `start`, that of a checkpoint; or from BLIP-B's.
    How a source was fed is no matter of the model that is trained from it.
    """
    base = BlipConfig() if start is None else dataclasses.replace(start, conventions=Conventions())
    config = changed(base, model)
    text = dataclasses.replace(config.text, vocab_size=tokenizer.vocab_size)
    return with_tokenizer(dataclasses.replace(config, text=text), tokenizer)


def changed(base: BlipConfig, fields: ConfigDict) -> BlipConfig:
    """`base` with some of its fields, and of its sections' fields, replaced."""
    merged = base.to_dict()
    for name, value in fields.to_dict().items():
        merged[name] = merged[name] | value if isinstance(value, dict) else value
    return BlipConfig.from_dict(merged)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where training begins: parameters, and teacher and queue where a checkpoint has them."""

    params: Params
    memory: dict[str, Any] | None = None


def initial(config: BlipConfig, seed: int, init: ConfigDict, found: Imported | None) -> Start:
    """What a checkpoint has, random parameters for the rest; then the towers that `init` names.

    A pre-training that goes on finds all it needs, teacher and queue too; another task gets what
    it shares with the checkpoint's (`blip_jax.models.transfer`), and what is newly drawn is told.

    Raises:
      ValueError: a file does not fit the model.
    """
    draw, key = jax.jit(Blip(config).init), jax.random.key(seed)
    if found is None:
        return Start(initialise(jax.device_get(draw(key)), init.vision, init.text))
    theirs = found.config
    if theirs.task == config.task == "pretrain":
        check_shapes(found.params, jax.eval_shape(draw, key), init.checkpoint)
        check_conventions(theirs, config, init.checkpoint)
        return Start(initialise(found.params, init.vision, init.text), found.memory)
    # How the source was fed is no matter: it is fed anew.
    fed = dataclasses.replace(theirs, conventions=config.conventions)
    check_conventions(fed, config, init.checkpoint)
    try:
        params, new = transfer(found.params, theirs.task, jax.device_get(draw(key)), config.task)
    except ValueError as error:
        raise ValueError(f"{init.checkpoint} does not fit the model: {error}") from error
    if new:
        log.warning("not in %s, newly drawn: %s", init.checkpoint, ", ".join(new))
    return Start(initialise(params, init.vision, init.text))


def check_conventions(found: BlipConfig, config: BlipConfig, source: str) -> None:
    """Raises ValueError where a source means its weights otherwise than `config` does."""
    pairs = {
        "vision.norm_eps": (found.vision.norm_eps, config.vision.norm_eps),
        "text.norm_eps": (found.text.norm_eps, config.text.norm_eps),
        "conventions": (found.conventions, config.conventions),
    }
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(f"{source} has {name} {theirs}; config.model.{name} is {ours}")


def open_sources(sources: ConfigDict, reader: Reader) -> list[Source]:
    """The sources that have a place; see configs/pretrain.py.

    Raises:
      ValueError: none has.
    """
    opened = [
        Source(reader.open(s.place, s.image_root), s.weight or None, s.parts)
        for s in sources.values()
        if s.place
    ]
    if not opened:
        names = ", ".join(f"sources.{name}.place" for name in sources)
        raise ValueError(f"no data: give at least one of {names}")
    return opened


def fit(
    run: Run,
    task: Task,
    data: Sequence[Any] | Sequence[Source],
    reader: Reader,
    tokenizer: Tokenizer,
    config: BlipConfig,
    start: Callable[[], Start],
) -> Model:
    """Trains a model into the run's folder, or opens it where it is already finished."""
    path = run.folder.local / MODEL
    if path.exists():
        return load(path)
    settings, skips = run.config, Skips()
    batches = train_dataset(
        data,
        reader,
        batch_size=settings.batch_size,
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        skips=skips,
    )
    begin, rows = start(), config.text.vocab_rows
    params, memory = (with_rows(tree, rows) for tree in (begin.params, begin.memory))
    params = train(run, task, params, batches, memory)
    if skips.counts:
        log.warning("%s: not used whole: %s", run.name, dict(skips.counts))
    model = Model(with_rows(params, config.text.vocab_size), config.as_saved(), tokenizer)
    if is_first():
        save(model, path)
    run.publish()
    wait_for_all(f"{run.name} saved")
    return model
