"""Image-text records held in memory; BLIP's JSON annotation lists."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

from blip_jax.data import storage
from blip_jax.data.record import MAX_LOST, Account, Record, Skip
from blip_jax.data.rows import RowReader


class Records(Sequence[Record]):
    """Usable rows, with an account of those left out.

    Attributes:
      skipped: rows left out, by reason: not_an_object, empty_caption, missing_image.
      examples: one sentence for each of the first few rows left out.
    """

    def __init__(
        self,
        rows: Sequence[Record],
        skipped: Counter[str] | None = None,
        examples: Sequence[str] = (),
    ):
        self._rows = tuple(rows)
        self.skipped: Counter[str] = Counter(skipped)
        self.examples = tuple(examples)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index):
        return self._rows[index]

    def __add__(self, other: Records) -> Records:
        """Both, in order, with both accounts."""
        examples = (*self.examples, *other.examples)[:5]
        return Records((*self, *other), self.skipped + other.skipped, examples)

    def __repr__(self) -> str:
        return f"Records({len(self)} rows, skipped={dict(self.skipped)})"


def read_json(
    path: str | Path,
    image_root: str | Path | None = None,
    *,
    missing: Literal["error", "skip"] = "skip",
    max_lost: float = MAX_LOST,
) -> Records:
    """Reads `[{"image", "caption": text or list of texts, "image_id"?, ...}, ...]`.

    The format of BLIP's pretrain, COCO and Flickr30k files (data/*.py there).

    Args:
      path: the annotation file.
      image_root: the folder that `image` is relative to; the file's own folder if None.
      missing: what a row without its image file does: "skip" counts it and leaves it out.
      max_lost: the largest share of rows that may be left out.

    Raises:
      FileNotFoundError: no such file, or a missing image with missing="error".
      ValueError: not such a list, a field of another type, or too many rows left out.
    """
    path = Path(path)
    prefix = f"{path.resolve().parent.name}/{path.stem}"
    root = path.parent if image_root is None else Path(image_root)
    account = Account(str(path), max_lost)
    rows = _strict(path, missing, read_rows(RowReader(prefix, root), load_list(path)))
    kept = list(account.records(rows))
    account.tell()
    return Records(kept, account.skipped, account.examples)


def read_all(
    paths: Sequence[str | Path], roots: Sequence[str | Path | None] | None = None
) -> Records:
    """One `Records` of several files, in order; `roots` has one image root for each file."""
    roots = [None] * len(paths) if roots is None else roots
    if len(roots) != len(paths):
        raise ValueError(f"{len(paths)} annotation files were given with {len(roots)} roots.")
    parts = [read_json(path, root) for path, root in zip(paths, roots, strict=False)]
    whole = functools.reduce(Records.__add__, parts, Records(()))
    if len({row.uid for row in whole}) < len(whole):
        raise ValueError(
            "Two annotation files share their folder's and their own name, so their rows "
            f"cannot be told apart: {', '.join(map(str, paths))}."
        )
    return whole


def read_rows(reader: RowReader, rows: list, start: int = 0) -> Iterator[Record | Skip]:
    """Records of rows that are numbered from `start`."""
    return (reader.read(number, row) for number, row in enumerate(rows, start))


def load_list(path: str | Path) -> list:
    """A JSON file's list.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON in UTF-8, or not a list.
    """
    if not storage.exists(path):
        raise FileNotFoundError(f"No annotation file at {path}.")
    try:
        with storage.open_binary(path) as file:
            rows = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file in UTF-8: {error}.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a JSON list of rows, not {type(rows).__name__}.")
    return rows


def _strict(path: Path, missing: str, rows: Iterator[Record | Skip]) -> Iterator[Record | Skip]:
    """A list that a person made has no field of another type: it stops there."""
    for row in rows:
        if isinstance(row, Skip) and row.reason == "bad_field":
            raise ValueError(f"{path}, {row.detail}")
        if isinstance(row, Skip) and row.reason == "missing_image" and missing == "error":
            raise FileNotFoundError(f"{path}, {row.detail[0].lower()}{row.detail[1:]}")
        yield row
