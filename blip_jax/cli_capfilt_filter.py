"""The commands over the scores of CapFilt: filter, report."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from blip_jax.cli_flags import Flags
from blip_jax.files import Progress


def run_filter(argv: list[str]) -> None:
    """blip-jax capfilt filter RUN...: a table of choices, or one choice written to --out."""
    from blip_jax.capfilt import rule as rules

    values = Flags()
    values.set_gnu_getopt()  # flags may follow folders
    flags.DEFINE_list("threshold", None, "least scores of a kept text", flag_values=values)
    flags.DEFINE_float("top_fraction", None, "instead, the share of texts", flag_values=values)
    flags.DEFINE_enum("by", "itm", ["itm", "itc"], "the score", flag_values=values)
    flags.DEFINE_enum("texts", "both", rules.CHOICES, "which texts may stay", flag_values=values)
    text = "of an image's synthetic texts only the best"
    flags.DEFINE_bool("best_of_n", False, text, flag_values=values)
    flags.DEFINE_integer("min_words", 1, "of a text", flag_values=values)
    flags.DEFINE_integer("max_words", None, "of a text", flag_values=values)
    flags.DEFINE_list("sources", [], "only images of these", flag_values=values)
    text = "of images with the same bytes only the first"
    flags.DEFINE_bool("drop_duplicates", False, text, flag_values=values)
    text = "least share of a synthetic text's nouns that another text of the image has"
    flags.DEFINE_float("noun_support", 0.0, text, flag_values=values)
    text = "shares of synthetic texts among the kept"
    flags.DEFINE_list("synthetic_share", None, text, flag_values=values)
    combined = ["mean", "min"]
    flags.DEFINE_enum("combine", "mean", combined, "several RUNs' scores", flag_values=values)
    flags.DEFINE_string("out", None, "folder to write one choice to", flag_values=values)
    formats = ["array_record", "webdataset", "json"]
    text = "also write OUT/data: the images with the kept texts alone"
    flags.DEFINE_enum("to", None, formats, text, flag_values=values)
    places = values(["blip-jax capfilt filter", *argv])[1:]
    if not places:
        raise ValueError("capfilt filter takes one or more RUNs, folders of `capfilt run`")
    if values.threshold and values.top_fraction is not None:
        raise ValueError("--threshold and --top_fraction exclude each other")
    fields = {
        name: getattr(values, name)
        for name in (
            *("top_fraction", "by", "texts", "best_of_n", "min_words", "max_words"),
            *("drop_duplicates", "noun_support"),
        )
    }
    from blip_jax.capfilt.scored import open_run

    runs = [open_run(place) for place in places]
    thresholds = _numbers("threshold", values.threshold) or [runs[0].threshold]
    shares: list[Any] = [*_numbers("synthetic_share", values.synthetic_share)] or [None]
    chosen = [
        rules.Rule(t, sources=tuple(values.sources), synthetic_share=share, **fields)
        for t in thresholds
        for share in shares
    ]
    if values.to and not values.out:
        raise ValueError("--to writes data into the folder --out, which is not given")
    if values.out and len(chosen) > 1:
        raise ValueError(f"--out takes one choice; {len(chosen)} were given")
    from blip_jax.capfilt.filter import compare, write_choice
    from blip_jax.capfilt.texts import read_texts

    for run in runs:
        _tell_missing(run)
    with _bar("read") as progress:
        options = {"combine": values.combine, "with_nouns": values.noun_support > 0}
        texts, sizes = read_texts(runs, **options, progress=progress)
    print(compare(texts, chosen))
    if values.out:
        with _bar("write") as progress:
            out = Path(values.out)
            write_choice(
                *(runs, texts, sizes, chosen[0], out), combine=values.combine, progress=progress
            )
        print(f"choice: {values.out}")
    if values.to:
        _write_data(runs[0], out, values.to)


def _write_data(run: Any, out: Path, to: Any) -> None:
    from blip_jax.capfilt.chosen import chosen_corpus, write_list
    from blip_jax.data.convert import convert

    corpus = chosen_corpus(run, out)
    if to == "json":
        images = write_list(corpus, out / "data" / "annotations.json")
    else:
        with _bar("data") as progress:
            images = convert(corpus, str(out / "data"), to, progress=progress)["records"]
    print(f"{images} images: {out / 'data'}")


def run_report(argv: list[str]) -> None:
    """blip-jax capfilt report RUN: RUN/report.html and RUN/report.json."""
    values = Flags()
    values.set_gnu_getopt()
    text = "dollars an hour of what one process ran on"
    flags.DEFINE_float("price", None, text, lower_bound=0, flag_values=values)
    flags.DEFINE_string("filter", None, "model that explains texts", flag_values=values)
    places = values(["blip-jax capfilt report", *argv])[1:]
    if len(places) != 1:
        raise ValueError(f"capfilt report takes one RUN; got {len(places)} folders")
    from blip_jax.capfilt.report import write_report
    from blip_jax.capfilt.scored import open_run

    run = open_run(places[0])
    _tell_missing(run)
    explain = _explainer(values.filter) if values.filter else None
    with _bar("report") as progress:
        page = write_report(run, price=values.price, explain=explain, progress=progress)
    print(f"report: {page}")


def _explainer(name: str) -> Callable[..., Any]:
    """The only part of the report that needs a model."""
    import blip_jax

    model = blip_jax.load(name)

    def explain(image: Any, text: str, word: str | None) -> Any:
        return model.explain(image, text, word).picture()

    return explain


def _numbers(name: str, words: list[str] | None) -> list[float]:
    try:
        return [float(word) for word in words or ()]
    except ValueError as error:
        raise ValueError(f"--{name}: expected numbers set apart by commas; {error}") from error


def _tell_missing(run: Any) -> None:
    if run.missing:
        total = len(run.names) + len(run.missing)
        told = f"{len(run.missing)} of {total} shards are not finished and not counted"
        print(f"{run.place}: {told}", file=sys.stderr)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(desc=name, unit="shard", file=sys.stderr, disable=None) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
