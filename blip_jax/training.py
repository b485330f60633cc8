"""One run of training, from a config to a model folder: `blip-jax train`, and the loop's stages."""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from blip_jax.config import BlipConfig
from blip_jax.data import storage
from blip_jax.data.examples import ImageTextOptions, Skips
from blip_jax.data.formats.array_record import SUFFIXES, ArrayRecords
from blip_jax.data.mixture import Source
from blip_jax.data.pipeline import train_dataset
from blip_jax.data.record import Record
from blip_jax.data.records import Records, read_json
from blip_jax.files import write_json
from blip_jax.interop.initialisers import check_shapes, initialise
from blip_jax.interop.source import load_source, with_tokenizer
from blip_jax.model import Model, load, save
from blip_jax.models.blip import Blip, Params
from blip_jax.tasks.caption import Caption
from blip_jax.tasks.contrastive import Contrastive
from blip_jax.tasks.pretrain import Pretrain
from blip_jax.tasks.retrieval import Retrieval
from blip_jax.tokenizer import Tokenizer
from blip_jax.train import ahead
from blip_jax.train.folder import MODEL, RunFolder
from blip_jax.train.hosts import is_first, wait_for_all
from blip_jax.train.loop import Run, check_batch, train
from blip_jax.train.mesh import make_mesh
from blip_jax.train.state import Task

log = logging.getLogger(__name__)

TASKS = ("pretrain", "caption", "retrieval")


def run_training(config: ConfigDict, workdir: str) -> str:
    """What `config` (see configs/pretrain.py) asks for; returns where the model folder is.

    `workdir` is a folder on disk or an address in a bucket, gs:// or s3://.

    Raises:
      ValueError: a source, a size or a task that does not fit, named.
      FileNotFoundError: data or weights that are not there.
    """
    folder = RunFolder(workdir)
    claim(config, folder.local, write=is_first())
    tokenizer = Tokenizer.from_source(config.tokenizer)
    model = model_config(config.model, tokenizer)
    task = make_task(config.task, Blip(model), config.run)
    sources = open_sources(config.sources)

    def start() -> Start:
        begin = initial(model, config.run.seed, config.init)
        # Pre-training goes on with its features; for another task they are stale.
        return begin if config.task == "pretrain" else Start(begin.params)

    run = Run(folder, config.task, config.run)
    fit(run, task, sources, tokenizer, model, start)
    return f"{workdir.rstrip('/')}/{MODEL}"


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
        old, new = flat(found), flat(asked)
        differ = sorted(k for k in old | new if old.get(k) != new.get(k))
        raise ValueError(
            f"{workdir} was begun with another config ({', '.join(differ[:5])} differ); "
            "give the same config to carry on, or another --workdir"
        )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a.b": value}."""
    items: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        items |= inner if inner is not None else {prefix + key: value}
    return items


def compile_training(config: ConfigDict, topology: str | None) -> str:
    """The train step of `config` compiled for a topology, or for the devices there are.

    Returns:
      A table of what the compiler says. Nothing is allocated and nothing is run.
    """
    devices = ahead.topology_devices(topology, config.run.mesh.slice) if topology else None
    mesh = make_mesh(config.run.mesh.to_dict(), devices)
    check_batch(config.run, mesh)
    parts = config.run.batch_size // config.run.accumulate
    blip = Blip(BlipConfig.from_dict(config.model.to_dict()))
    task = make_task(config.task, blip, config.run)
    task.check(parts)
    params = jax.eval_shape(blip.init, jax.random.key(0))
    rows, size = config.run.batch_size, blip.config.vision.image_size
    text = jax.ShapeDtypeStruct((rows, config.run.data.max_tokens), np.int32)
    row = jax.ShapeDtypeStruct((rows,), np.int32)
    batch = {
        "image": jax.ShapeDtypeStruct((rows, size, size, 3), np.uint8),
        "input_ids": text,
        "attention_mask": text,
        "image_index": row,
        "prompt_length": row,
    }
    program = ahead.compile_step(task, params, batch, config.run, mesh)
    return ahead.table([program], ahead.chip_of(topology) if topology else None)


def make_task(name: str, blip: Blip, settings: ConfigDict) -> Task:
    """The objective of a name, with `settings.objective` where it is contrastive.

    Raises:
      ValueError: no such task.
    """
    if name == "caption":
        return Caption(blip)
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    contrastive = Contrastive(blip, **settings.objective.to_dict())
    return Pretrain(contrastive) if name == "pretrain" else Retrieval(contrastive)


def model_config(model: ConfigDict, tokenizer: Tokenizer) -> BlipConfig:
    """The config of a model that reads with `tokenizer`: its size and its special tokens."""
    config = BlipConfig.from_dict(model.to_dict())
    text = dataclasses.replace(config.text, vocab_size=tokenizer.vocab_size)
    return with_tokenizer(dataclasses.replace(config, text=text), tokenizer)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where training begins: parameters, and teacher and queue where a checkpoint has them."""

    params: Params
    memory: dict[str, Any] | None = None


def initial(config: BlipConfig, seed: int, init: ConfigDict) -> Start:
    """What `init.checkpoint` holds, or random parameters; with the towers that `init` names.

    Raises:
      ValueError: a file does not fit the model.
    """
    blip = Blip(config)
    if not init.checkpoint:
        params = jax.device_get(jax.jit(blip.init)(jax.random.key(seed)))
        return Start(initialise(params, init.vision, init.text))
    found = load_source(
        init.checkpoint,
        image_size=config.vision.image_size,
        vision_heads=config.vision.heads,
        text_heads=config.text.heads,
    )
    like = jax.eval_shape(blip.init, jax.random.key(seed))
    check_shapes(found.params, like, init.checkpoint)
    check_conventions(found.config, config, init.checkpoint)
    return Start(initialise(found.params, init.vision, init.text), found.memory)


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


def open_sources(sources: ConfigDict) -> list[Source]:
    """The sources that have a place; see configs/pretrain.py.

    Raises:
      ValueError: none has.
    """
    opened = [
        Source(open_records(s.place, s.image_root), s.weight or None, s.parts)
        for s in sources.values()
        if s.place
    ]
    if not opened:
        names = ", ".join(f"sources.{name}.place" for name in sources)
        raise ValueError(f"no data: give at least one of {names}")
    return opened


def open_records(place: str, image_root: str) -> Sequence[Record]:
    """Records with random access: ArrayRecord files, or one of BLIP's JSON lists.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: another format, which `blip-jax data convert` carries over.
    """
    if place.endswith(".json"):
        return read_json(place, image_root or None)
    files = storage.find(place)
    if any(name.endswith("/conversion.json") for name in files) and not any(
        name.endswith("/manifest.json") for name in files
    ):
        raise ValueError(f"{place}: `blip-jax data convert` did not come to its end there")
    if found := storage.with_suffix(files, *SUFFIXES):
        return ArrayRecords(found)
    raise ValueError(
        f"{place}: expected a .json list, or a folder or pattern of ArrayRecord files; "
        "`blip-jax data convert` makes them of other data"
    )


def fit(
    run: Run,
    task: Task,
    data: Records | Sequence[Source],
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
        tokenizer,
        ImageTextOptions(image_size=config.vision.image_size, **settings.data.to_dict()),
        batch_size=settings.batch_size,
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        skips=skips,
    )
    begin = start()
    params = train(run, task, begin.params, batches, begin.memory)
    if skips.counts:
        log.warning("%s: not used whole: %s", run.name, dict(skips.counts))
    model = Model(params, config, tokenizer)
    if is_first():
        save(model, path)
    run.publish()
    wait_for_all(run.name)
    return model
