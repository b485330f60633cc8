"""`blip-jax capfilt filter`: the texts of a finished run chosen again, without a model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blip_jax.capfilt.rule import Rule, Texts, choose, counts
from blip_jax.capfilt.scored import ScoredRun, read_object
from blip_jax.capfilt.texts import flatten, hex_words
from blip_jax.files import Progress, silent, write_json

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS = "filter.json"
_OUT = ("uid", "key", "texts")


def compare(texts: Texts, rules: Sequence[Rule]) -> str:
    """A table of what each rule keeps, the first line its head."""
    total = len(texts.source)
    lines = ["threshold  synthetic_share  images        %     texts       web  synthetic"]
    for rule in rules:
        found = counts(texts, choose(texts, rule))
        share = "" if rule.synthetic_share is None else f"{rule.synthetic_share:g}"
        limit = f"{rule.threshold:g}" if rule.top_fraction is None else f"top {rule.top_fraction:g}"
        lines.append(
            f"{limit:>9}  {share:>15}  {found['images']:>6}  {100 * found['images'] / total:>7.2f}"
            f"  {found['texts']:>8}  {found['web']:>8}  {found['synthetic']:>9}"
        )
    return "\n".join(lines)


def write_choice(
    runs: Sequence[ScoredRun],
    texts: Texts,
    sizes: Sequence[int],
    rule: Rule,
    out: Path,
    *,
    combine: str = "mean",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Writes the texts that a rule keeps.

        OUT/texts/NAME.parquet    uid, key, text, origin, itm, itc: one row a text
        OUT/annotations.json      BLIP's list: [{"image", "caption", "uid", "origin"}, ...]
        OUT/uids.npy              DataComp's list of kept images; where uids are 32 hex digits
        OUT/sizes.json            shard -> kept images
        OUT/filter.json           settings and counts

    The folder appears whole or not at all. One that is there already is left as it is.

    Args:
      texts, sizes: of `read_texts`.

    Returns:
      What is in filter.json.

    Raises:
      ValueError: `out` holds a choice by other settings, or something else; or nothing was kept.
    """
    settings = settings_of(runs, rule, combine)
    if out.exists():
        return same_choice(out, settings)
    kept = choose(texts, rule)
    facts = settings | {"kept": counts(texts, kept)}
    if not facts["kept"]["texts"]:
        raise ValueError(f"the rule keeps none of {len(kept)} texts; expected a lower threshold")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_files(runs[0], texts, kept, sizes, partial, progress)
    write_json(partial / SETTINGS, facts)
    partial.rename(out)
    return facts


def settings_of(runs: Sequence[ScoredRun], rule: Rule, combine: str) -> dict[str, Any]:
    """What a choice follows from; two choices with the same are the same."""
    found = {
        "runs": [
            {"place": run.place, "settings": run.settings, "shards": list(run.names)}
            for run in runs
        ],
        "combine": combine if len(runs) > 1 else None,
        "rule": dataclasses.asdict(rule),
    }
    return json.loads(json.dumps(found))


def same_choice(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The choice that is there; ValueError if it was made by other settings."""
    if not (out / SETTINGS).exists():
        raise ValueError(f"{out} is there and holds no choice of texts; expected a new folder.")
    found = read_object(str(out / SETTINGS), ("runs", "rule"))
    differ = [key for key, value in settings.items() if found.get(key) != value]
    if differ:
        raise ValueError(f"{out} holds another choice ({', '.join(differ)}); use another folder.")
    return found


def write_files(
    run: ScoredRun,
    texts: Texts,
    kept: np.ndarray,
    sizes: Sequence[int],
    folder: Path,
    progress: Progress,
) -> None:
    """The files of `write_choice`, but for the settings, shard by shard."""
    from pyarrow import parquet

    (folder / "texts").mkdir(parents=True)
    found = {}
    uids = []
    hexadecimal = True
    ends = np.cumsum(sizes)
    with (folder / "annotations.json").open("w", encoding="utf-8") as annotations:
        write = list_writer(annotations.write)
        for name, start, end in zip(run.names, ends - sizes, ends, strict=True):
            part = slice(start, end)
            scores = {"itm": texts.itm[part], "itc": texts.itc[part]}
            chosen, images = chosen_rows(run.table(name, _OUT), kept[part], scores)
            parquet.write_table(chosen, folder / "texts" / f"{name}.parquet")
            write(annotation_rows(chosen))
            words = hex_words(images)
            hexadecimal = hexadecimal and bool(words.any(1).all())
            uids.append(words)
            found[f"{name}.parquet"] = len(images)
            progress(len(found), len(run.names))
        write(None)
    write_json(folder / "sizes.json", found)
    if hexadecimal:
        np.save(folder / "uids.npy", uid_list(np.concatenate(uids)))


def chosen_rows(
    table: pa.Table, kept: np.ndarray, scores: dict[str, np.ndarray]
) -> tuple[pa.Table, pa.ChunkedArray]:
    """A shard's kept texts, one a row, and the uids of their images, each once.

    The scores [N] take the place of the run's own: several filters' may be combined.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    owner, flat = flatten(table)
    index = np.flatnonzero(kept)
    owner, flat = owner[index], flat.take(pa.array(index))
    of_image = {name: table[name].take(pa.array(owner)) for name in ("uid", "key")}
    of_text = {name: pc.struct_field(flat, name) for name in ("text", "origin")}
    of_score = {name: pa.array(values[index]) for name, values in scores.items()}
    return pa.table(of_image | of_text | of_score), table["uid"].take(pa.array(np.unique(owner)))


def annotation_rows(chosen: pa.Table) -> list[dict[str, str]]:
    """BLIP's rows; `image` is the sample's key in the data."""
    names = ["image", "caption", "uid", "origin"]
    return chosen.select(["key", "text", "uid", "origin"]).rename_columns(names).to_pylist()


def list_writer(write: Callable[[str], Any]) -> Callable[[list[dict[str, str]] | None], None]:
    """Writes a JSON list in parts, a row a line; None ends it."""
    opening = "[\n"

    def add(rows: list[dict[str, str]] | None) -> None:
        nonlocal opening
        if rows is None:
            write("\n]\n" if opening != "[\n" else "[]\n")
        elif rows:
            write(opening + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
            opening = ",\n"

    return add


def uid_list(words: np.ndarray) -> np.ndarray:
    """uint64 [R, 2] as DataComp's sorted array of pairs, dtype "u8,u8" (its resharder's -s)."""
    order = np.lexsort((words[:, 1], words[:, 0]))
    return np.ascontiguousarray(words[order]).view(np.dtype("u8,u8"))[:, 0]
