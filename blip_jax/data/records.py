"""Image-text records read from BLIP's JSON annotation lists."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, overload

from blip_jax.data.text import pre_caption

log = logging.getLogger(__name__)

MAX_LOST = 0.1
_EXAMPLES = 5


@dataclass(frozen=True)
class Record:
    """One row of an annotation file.

    Attributes:
      uid: names the row: folder/file/row of its annotation file.
      image: path of the image.
      captions: at least one, as written in the file, none empty once cleaned.
      image_id: the same for all rows of one image; the image's path where the file gives none.
      extra: the row's other fields.
    """

    uid: str
    image: Path
    captions: tuple[str, ...]
    image_id: str
    extra: dict = field(default_factory=dict)


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
        examples = (*self.examples, *other.examples)[:_EXAMPLES]
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
      ValueError: not such a list, or too many rows left out.
    """
    path = Path(path)
    root = path.parent if image_root is None else Path(image_root)
    reader = _Reader(path, root, missing)
    for number, row in enumerate(_load_list(path)):
        reader.add(number, row)
    return reader.finish(max_lost)


def read_all(
    paths: Sequence[str | Path], roots: Sequence[str | Path | None] | None = None
) -> Records:
    """One `Records` of several files, in order; `roots` has one image root for each file."""
    roots = [None] * len(paths) if roots is None else roots
    if len(roots) != len(paths):
        raise ValueError(f"{len(paths)} annotation files were given with {len(roots)} roots.")
    parts = [read_json(path, root) for path, root in zip(paths, roots, strict=False)]
    rows = [row for part in parts for row in part]
    if len({row.uid for row in rows}) < len(rows):
        raise ValueError(
            "Two annotation files share their folder's and their own name, so their rows "
            f"cannot be told apart: {', '.join(map(str, paths))}."
        )
    examples = [example for part in parts for example in part.examples][:_EXAMPLES]
    return Records(rows, sum((part.skipped for part in parts), Counter()), examples)


class _Reader:
    """Rows of one file, checked and sorted into kept and left out."""

    def __init__(self, path: Path, root: Path, missing: str):
        self.path, self.root, self.missing = path, root, missing
        self.prefix = f"{path.resolve().parent.name}/{path.stem}"
        self.rows: list[Record] = []
        self.skipped: Counter[str] = Counter()
        self.examples: list[str] = []
        self.exists: dict[Path, bool] = {}

    def add(self, number: int, row: object) -> None:
        if not isinstance(row, dict):
            return self._skip(number, "not_an_object", "is not an object")
        name = self._field(number, row, "image", str)
        captions = self._field(number, row, "caption", str, list)
        captions = [captions] if isinstance(captions, str) else captions
        if not all(isinstance(c, str) for c in captions):
            raise self._error(number, "caption", "a string or a list of strings")
        captions = tuple(c for c in captions if pre_caption(c))
        if not captions:
            return self._skip(number, "empty_caption", "has no caption once cleaned")
        image = self.root / name
        if not self._has(image):
            if self.missing == "error":
                raise FileNotFoundError(f"{self.path}, row {number}: no image at {image}.")
            return self._skip(number, "missing_image", f"has no image at {image}")
        extra = {k: v for k, v in row.items() if k not in ("image", "caption", "image_id")}
        image_id = row.get("image_id")
        image_id = str(image) if image_id is None else str(image_id)
        self.rows.append(Record(f"{self.prefix}/{number}", image, captions, image_id, extra))

    def finish(self, max_lost: float) -> Records:
        lost, kept = self.skipped.total(), len(self.rows)
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        if kept == 0 or lost > max_lost * (lost + kept):
            first = f"; first: {self.examples[0]}" if self.examples else ""
            raise ValueError(
                f"{self.path}: {lost} of {lost + kept} rows cannot be used "
                f"({reasons or 'the list is empty'}), more than the {max_lost:.0%} allowed{first}"
            )
        log.info("%s: %d rows kept, %d skipped (%s)", self.path, kept, lost, reasons or "none")
        return Records(self.rows, self.skipped, self.examples)

    def _has(self, image: Path) -> bool:
        if image not in self.exists:
            self.exists[image] = image.is_file()
        return self.exists[image]

    def _field(self, number: int, row: dict, name: str, *kinds: type):
        value = row.get(name)
        if not isinstance(value, kinds) or (name == "image" and not value):
            wanted = " or ".join("a string" if kind is str else "a list" for kind in kinds)
            raise self._error(number, name, wanted)
        return value

    def _error(self, number: int, name: str, wanted: str) -> ValueError:
        return ValueError(f'{self.path}, row {number}: field "{name}" must be {wanted}.')

    def _skip(self, number: int, reason: str, sentence: str) -> None:
        self.skipped[reason] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"Row {number} {sentence}.")


def _load_list(path: Path) -> list:
    if not path.is_file():
        raise FileNotFoundError(f"No annotation file at {path}.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file in UTF-8: {error}.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a JSON list of rows, not {type(rows).__name__}.")
    return rows
