"""The commands over image-text data: check, convert, annotations, split, bench."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from blip_jax.cli_flags import Flags, subcommand
from blip_jax.files import Progress, write_json, write_json_lines


def run(argv: list[str]) -> None:
    """blip-jax data check|convert|annotations|split|bench ...

    Raises:
      ValueError, FileNotFoundError: the user's mistake.
      RuntimeError: `check` found errors.
    """
    commands = {
        "check": run_check,
        "convert": run_convert,
        "annotations": run_annotations,
        "split": run_split,
        "bench": run_bench,
    }
    subcommand("data", commands, argv)


def run_check(argv: list[str]) -> None:
    """blip-jax data check PLACE: what is wrong with it; RuntimeError if that spoils a run."""
    values = _flags()
    _define_corpus(values)
    flags.DEFINE_integer("limit", 0, "rows of each shard to look at; 0: all", flag_values=values)
    flags.DEFINE_integer("max_words", 30, "longer captions are told", flag_values=values)
    flags.DEFINE_string("tokenizer", None, "counts tokens instead of words", flag_values=values)
    flags.DEFINE_string("out", None, "folder for report.json and samples.png", flag_values=values)
    (place,) = _paths(values, "check", argv, 1)
    from blip_jax.data.check import check, contact_sheet
    from blip_jax.tokenizer import Tokenizer

    tokenizer = None if values.tokenizer is None else Tokenizer.from_source(values.tokenizer)
    with bar("check", "shard") as progress:
        findings = check(
            _corpus(place, values),
            limit=values.limit,
            max_words=values.max_words,
            tokenizer=tokenizer,
            progress=progress,
        )
    facts = findings.facts(values.max_lost)
    print(_told(facts))
    if values.out:
        folder = Path(values.out)
        write_json(folder / "report.json", facts)
        contact_sheet(findings.samples).save(folder / "samples.png")
    if findings.failed(values.max_lost):
        raise RuntimeError(f"{place} cannot be trained on as it is; see the errors above")


def run_convert(argv: list[str]) -> None:
    """blip-jax data convert PLACE TARGET --to array_record|webdataset."""
    values = _flags()
    _define_corpus(values)
    formats = ["array_record", "webdataset"]
    flags.DEFINE_enum("to", "array_record", formats, "format to write", flag_values=values)
    flags.DEFINE_integer("processes", 1, "that convert", lower_bound=1, flag_values=values)
    place, target = _paths(values, "convert", argv, 2)
    from blip_jax.data.convert import convert

    with bar("convert", "shard") as progress:
        manifest = convert(
            _corpus(place, values),
            target,
            values.to,
            processes=values.processes,
            max_lost=values.max_lost,
            progress=progress,
        )
    lost = sum(manifest["lost"].values())
    print(f"{manifest['records']} records, {lost} rows lost: {target}/manifest.json")


def run_annotations(argv: list[str]) -> None:
    """blip-jax data annotations FILE... --of coco|vqa|... --out DIR: as the original reads them."""
    from blip_jax.data.publishers import PUBLISHERS, translate

    values = _flags()
    names = list(PUBLISHERS)
    flags.DEFINE_enum("of", None, names, "data set", flag_values=values, required=True)
    flags.DEFINE_string("out", None, "folder to write to", flag_values=values, required=True)
    files = values(["blip-jax data annotations", *argv])[1:]
    for name, rows in translate(values.of, files).items():
        # The original reads MSRVTT as lines, all else as one list.
        suffix, write = (
            ("jsonl", write_json_lines) if values.of == "msrvtt" else ("json", write_json)
        )
        path = Path(values.out) / f"{name}.{suffix}"
        write(path, rows)
        print(f"{len(rows)} rows: {path}")


def run_split(argv: list[str]) -> None:
    """blip-jax data split FILE --by FIELD --out DIR: a list in two, to train on and to hold out."""
    from blip_jax.data.records import load_list
    from blip_jax.data.split import split

    values = _flags()
    flags.DEFINE_string("by", None, "whose rows stay together", flag_values=values, required=True)
    flags.DEFINE_string("out", None, "folder to write to", flag_values=values, required=True)
    flags.DEFINE_float("share", 0.2, "of the rows that is held out", flag_values=values)
    flags.DEFINE_integer("seed", 0, "another draws another share", flag_values=values)
    (file,) = _paths(values, "split", argv, 1)
    try:
        sides = split(load_list(file), values.by, values.share, values.seed)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    for name, rows in zip(("train", "val"), sides, strict=True):
        path = Path(values.out) / f"{Path(file).stem}_{name}.json"
        write_json(path, rows)
        print(f"{len(rows)} rows: {path}")


def run_bench(argv: list[str]) -> None:
    """blip-jax data bench [PLACE]: images a second and core, and how long a device would wait."""
    values = _flags()
    _define_corpus(values)
    flags.DEFINE_integer("size", 224, "pixels of a crop's side", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "images a step", flag_values=values)
    flags.DEFINE_float("step_time", 0.25, "seconds of a step on the device", flag_values=values)
    flags.DEFINE_integer("images", 500, "to measure with", flag_values=values)
    flags.DEFINE_integer("workers", 0, "processes that load; 0: threads", flag_values=values)
    paths = values(["blip-jax data bench", *argv])[1:]
    if len(paths) > 1:
        raise ValueError(f"data bench takes one PLACE or none; got {len(paths)}")
    from blip_jax.data.bench import bench, drawn_photos, photos

    if paths:
        records = photos(_corpus(paths[0], values), values.images)
    else:
        records = drawn_photos(values.images)
    found = bench(
        records,
        size=values.size,
        batch_size=values.batch_size,
        step_time=values.step_time,
        workers=values.workers,
    )
    print(json.dumps(found, indent=1))


@contextlib.contextmanager
def bar(name: str, unit: str) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit=unit, file=sys.stderr, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def _flags() -> flags.FlagValues:
    values = Flags()
    values.set_gnu_getopt()  # flags may follow paths
    return values


def _define_corpus(values: flags.FlagValues) -> None:
    text = "folder of the images that rows name, or of img2dataset's downloads"
    flags.DEFINE_string("image_root", None, text, flag_values=values)
    flags.DEFINE_string("image", None, "the image column, if not a usual name", flag_values=values)
    flags.DEFINE_string("caption", None, "the text column, if not a usual name", flag_values=values)
    flags.DEFINE_float("max_lost", 0.1, "largest share of rows to lose", flag_values=values)


def _paths(values: flags.FlagValues, name: str, argv: list[str], count: int) -> list[str]:
    paths = values([f"blip-jax data {name}", *argv])[1:]
    if len(paths) != count:
        wanted = "one place" if count == 1 else "PLACE and TARGET"
        raise ValueError(f"data {name} takes {wanted}; got {len(paths)} paths")
    return paths


def _corpus(place: str, values: flags.FlagValues) -> Any:
    from blip_jax.data.corpus import open_corpus

    columns = {"image": values.image, "caption": values.caption}
    return open_corpus(place, image_root=values.image_root, **columns)


def _told(facts: dict[str, Any]) -> str:
    """The facts for a reader."""
    lines = [f"{facts['records']} of {facts['rows']} rows usable, {facts['shards']} shards"]
    for name in ("words_per_caption", "tokens_per_caption", "width", "height"):
        if facts.get(name):
            spread = ", ".join(f"{key} {value:g}" for key, value in facts[name].items())
            lines.append(f"{name.replace('_', ' ')}: {spread}")
    for kind, found in facts["findings"].items():
        lines.append(f"{found['severity']}: {found['count']} {kind}")
        lines += [f"    {example}" for example in found["examples"]]
    return "\n".join(lines)
