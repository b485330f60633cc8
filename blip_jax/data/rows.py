"""From a row with columns (JSON, CSV, parquet, a tar's .json) to a record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_jax.data import storage
from blip_jax.data.record import Record, Skip
from blip_jax.data.text import pre_caption

SYNTHETIC = "syn_text"  # DataCompDR's name
# Names that columns go by, the first that is there counts; compared in lower case.
_IMAGE = (
    *("image", "jpg", "jpeg", "png", "webp", "image_bytes"),
    *("image_path", "filepath", "file_path", "file_name", "filename", "path"),
)
_CAPTION = ("caption", "captions", "text", "texts", "txt", "alt_text", "title")
_URL = ("url", "image_url")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None where the data has no such column."""

    image: str | None = "image"
    caption: str | None = "caption"
    url: str | None = None

    @classmethod
    def find(
        cls, names: Iterable[str], *, image: str | None = None, caption: str | None = None
    ) -> Columns:
        """The columns by their usual names; `image` and `caption` name them outright.

        Raises:
          ValueError: no column goes by a usual name, or the one named is not there.
        """
        names = list(names)
        url = _first(names, _URL)
        found_image = _first(names, [image.lower()] if image else _IMAGE)
        if found_image is None and (image or url is None):
            raise ValueError(f"no image column {image or _IMAGE[0]!r} among {_listed(names)}.")
        found = _first(names, [caption.lower()] if caption else _CAPTION)
        if found is None:
            raise ValueError(f"no text column {caption or _CAPTION[0]!r} among {_listed(names)}.")
        return cls(found_image, found, url)


@dataclass
class RowReader:
    """Makes records of one file's rows.

    Attributes:
      prefix: what a row's number is put behind to name it.
      root: the folder that image paths are relative to.
      columns: which columns hold what.
      source: the data set's name, for rows that have no column `source`.
      by_url: address of the image downloaded from each URL, where images are joined by URL.
    """

    prefix: str
    root: Path | str
    columns: Columns = field(default_factory=Columns)
    source: str = ""
    by_url: Mapping[str, str] | None = None

    def read(self, number: int, row: object) -> Record | Skip:
        """A row's record. Skips: not_an_object, bad_field, empty_caption, missing_image,
        not_downloaded.
        """
        uid = f"{self.prefix}/{number}"
        if not isinstance(row, dict):
            return Skip(uid, "not_an_object", f"Row {number} is not an object.")
        uid = str(row.get("uid") or uid)
        image = self._image(uid, number, row)
        if isinstance(image, Skip):
            return image
        captions = texts_of(row.get(self.columns.caption))
        synthetic = texts_of(row.get(SYNTHETIC) or ())
        if captions is None or synthetic is None:
            name = self.columns.caption if captions is None else SYNTHETIC
            return self._bad(uid, number, name, "a string or a list of strings", row)
        captions, synthetic = with_words(captions), with_words(synthetic)
        if not captions and not synthetic:
            detail = f"Row {number} has no caption once cleaned."
            return Skip(uid, "empty_caption", detail, row)
        # A bucket is not asked for every image; a missing one is found when it is read.
        if isinstance(image, Path) and not image.is_file():
            return Skip(uid, "missing_image", f"Row {number} has no image at {image}.", row)
        used = (self.columns.image, self.columns.caption, "image_id", "uid", SYNTHETIC, "source")
        extra = {k: v for k, v in row.items() if k not in used}
        image_id = row.get("image_id")
        if image_id is None:
            image_id = uid if isinstance(image, bytes) else image
        source = str(row.get("source") or self.source)
        return Record(uid, image, captions, str(image_id), extra, synthetic, source)

    def _image(self, uid: str, number: int, row: dict) -> Path | str | bytes | Skip:
        """The image's bytes or place."""
        name = self.columns.image if self.by_url is None else self.columns.url
        value = row.get(name)
        if isinstance(value, dict):  # Hugging Face: struct of bytes and path
            value = value.get("bytes") or value.get("path")
        if not value and row.get("status") not in (None, "success"):  # of img2dataset
            why = row.get("error_message") or row["status"]
            return Skip(uid, "not_downloaded", f"Row {number} was not fetched: {why}.", row)
        if not isinstance(value, str | bytes) or not value:
            return self._bad(uid, number, name, "a string", row)
        if isinstance(value, bytes):
            return value
        if self.by_url is not None:
            if value not in self.by_url:
                return Skip(uid, "not_downloaded", f"Row {number}: {value} was not fetched.", row)
            return storage.place(self.by_url[value])
        return storage.place(storage.join(self.root, value))

    def _bad(self, uid: str, number: int, name: str | None, wanted: str, row: dict) -> Skip:
        return Skip(uid, "bad_field", f'row {number}: field "{name}" must be {wanted}.', row)


def texts_of(value: object) -> tuple[str, ...] | None:
    """A string, or a list or tuple of strings, as a tuple; None for anything else."""
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        return None
    return tuple(values)


def to_json(fields: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8; what JSON has no form for (dates, decimals) becomes its text."""
    return json.dumps(fields, ensure_ascii=False, default=str).encode("utf-8", "replace")


def with_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are not empty once cleaned."""
    return tuple(text for text in texts if pre_caption(text))


def _first(names: list[str], wanted: Iterable[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "no columns at all"
