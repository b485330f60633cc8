"""The images that a report shows: a few dozen rows, from a few shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blip_jax.capfilt.sample import Row, highest, read_rows
from blip_jax.capfilt.scored import ScoredRun
from blip_jax.data import storage
from blip_jax.data.corpus import open_corpus
from blip_jax.data.record import Record

if TYPE_CHECKING:
    import pyarrow as pa

SHARDS = 4  # that pictures are taken from: a tar is read up to its last picture
EACH = 10  # pictures of a sheet
Image = Path | str | bytes


@dataclasses.dataclass(frozen=True)
class Shown:
    """A row and its image; None where it cannot be found."""

    row: Row
    image: Image | None


@dataclasses.dataclass(frozen=True)
class Sheets:
    """Rows with a kept text, rows without one, and rows with a text nearest to the threshold.

    `shards` names the shards they are from; `trouble` says why images are missing.
    """

    accepted: list[Shown]
    rejected: list[Shown]
    borderline: list[Shown]
    shards: tuple[str, ...]
    trouble: str


def choose_sheets(run: ScoredRun, each: int = EACH) -> Sheets:
    """Draws the rows of the three sheets, the same ones every time, and opens their images."""
    names = spread(run.names, SHARDS)
    rows: list[list[Row]] = [[], [], []]
    wanted: dict[str, set[str]] = {}
    for number, name in enumerate(names):
        table = run.table(name, ("uid", "source", "texts"))
        share = [each // len(names) + (number < each % len(names))] * 3
        for group, index in zip(rows, draw(table, run.threshold, share), strict=True):
            chosen = read_rows(table, index, run.threshold)
            group += chosen
            wanted.setdefault(name, set()).update(row.uid for row in chosen)
    images, trouble = find_images(run, wanted)
    shown = [[Shown(row, images.get(row.uid)) for row in group] for group in rows]
    return Sheets(shown[0], shown[1], shown[2], names, trouble)


def draw(table: pa.Table, threshold: float, sizes: Sequence[int]) -> list[np.ndarray]:
    """Row numbers of a shard: accepted and rejected ones at random, and the most borderline."""
    top, distance = highest(table, threshold)
    rng = np.random.default_rng(0)
    kept = rng.permutation(np.flatnonzero(top >= np.float64(threshold)))
    dropped = rng.permutation(np.flatnonzero(top < np.float64(threshold)))
    near = np.argsort(distance, kind="stable")[: np.count_nonzero(~np.isnan(distance))]
    return [rows[:size] for rows, size in zip((kept, dropped, near), sizes, strict=True)]


def spread(names: Sequence[str], number: int) -> tuple[str, ...]:
    """At most `number` of the names, evenly spaced."""
    index = np.unique(np.linspace(0, len(names) - 1, min(number, len(names))).astype(int))
    return tuple(names[i] for i in index)


def find_images(run: ScoredRun, wanted: dict[str, set[str]]) -> tuple[dict[str, Image], str]:
    """uid -> image, from the run's own data, else from the corpus; and why some are missing."""
    found: dict[str, Image] = {}
    trouble = ""
    data = storage.join(run.place, "data")
    reading = run.settings.get("reading", {})
    for place, how in ((data, {}), (str(run.settings.get("corpus", "")), reading)):
        left = {name: uids - found.keys() for name, uids in wanted.items()}
        if not any(left.values()):
            return found, ""
        if not place or (place == data and not storage.is_folder(data)):
            continue
        try:
            found |= read_images(place, left, how)
        except (ValueError, OSError) as error:
            trouble = f"{error}"
    missing = sum(len(uids - found.keys()) for uids in wanted.values())
    return found, (trouble or "they are neither in the run nor in the corpus") if missing else ""


def read_images(
    place: str, wanted: dict[str, set[str]], reading: dict[str, str | None]
) -> dict[str, Image]:
    """The images of some uids; a shard is read only as far as it needs.

    `reading` is what `open_corpus` is told besides the place.
    """
    found: dict[str, Image] = {}
    for shard in open_corpus(place, **reading).shards:
        left = set(wanted.get(shard.name, ()))
        for row in shard.rows() if left else ():
            if isinstance(row, Record) and row.uid in left:
                found[row.uid] = row.image
                left.remove(row.uid)
                if not left:
                    break
    return found
