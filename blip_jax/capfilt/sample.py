"""The rows of a run that text is measured on: every k-th, so that memory does not grow."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from blip_jax.capfilt.scored import ScoredRun
from blip_jax.capfilt.texts import flatten, floats
from blip_jax.files import Progress, silent

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE = 50_000  # rows, at most
_COLUMNS = ("uid", "source", "status", "texts")


@dataclasses.dataclass(frozen=True)
class Text:
    """A text of an image and what the filter made of it."""

    text: str
    synthetic: bool
    method: str
    itm: float
    kept: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """An image with its texts, the web text first."""

    uid: str
    source: str
    texts: tuple[Text, ...]

    @property
    def web(self) -> Text | None:
        """Its web text, where it has one that was scored."""
        return next((text for text in self.texts if not text.synthetic), None)

    @property
    def captions(self) -> tuple[Text, ...]:
        """Its synthetic texts."""
        return tuple(text for text in self.texts if text.synthetic)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Every `step`-th row that has scored texts, and the status of all rows, counted."""

    rows: list[Row]
    step: int
    status: Counter[str]


def read_sample(run: ScoredRun, size: int = SAMPLE, progress: Progress = silent) -> Sample:
    """At most `size` rows of a run, spread evenly."""
    total = sum(int(marker["rows"]) for marker in run.markers)
    step = max(1, -(-total // size))
    rows: list[Row] = []
    status: Counter[str] = Counter()
    start = 0
    for number, (_, table) in enumerate(run.tables(_COLUMNS)):
        status.update(
            {c["values"]: c["counts"] for c in table["status"].value_counts().to_pylist()}
        )
        rows += read_rows(table, np.arange(-start % step, table.num_rows, step), run.threshold)
        start += table.num_rows
        progress(number + 1, len(run.names))
    return Sample(rows, step, status)


def read_rows(table: pa.Table, index: np.ndarray, threshold: float) -> list[Row]:
    """Some rows of a shard's scores, without those that have no scored text."""
    import pyarrow as pa

    chosen = table.select(["uid", "source", "texts"]).take(pa.array(index))
    found = []
    for row in chosen.to_pylist():
        texts = tuple(
            Text(
                text["text"],
                text["origin"] == "synthetic",
                text["method"] or "",
                text["itm"],
                text["itm"] >= threshold,
            )
            for text in row["texts"] or ()
            if text["text"] and text["itm"] is not None
        )
        if texts:
            found.append(Row(row["uid"], str(row["source"]), texts))
    return found


def highest(table: pa.Table, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """float32 [R] twice: each row's highest ITM, and how near its nearest is to the threshold.

    NaN for a row without scores.
    """
    owner, flat = flatten(table)
    itm = floats(flat, "itm")
    itm, owner = itm[~np.isnan(itm)], owner[~np.isnan(itm)]
    out = np.full((2, table.num_rows), np.nan, np.float32)
    if len(owner):
        start = np.flatnonzero(np.append(True, np.diff(owner) != 0))
        out[0, owner[start]] = np.maximum.reduceat(itm, start)
        distance = np.minimum.reduceat(np.abs(itm - np.float64(threshold)), start)
        out[1, owner[start]] = distance
    return out[0], out[1]
