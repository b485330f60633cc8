"""The data that comes out of a shard, in the format it came in or another.

Tars and parquet are the shard with every text and score beside what was there; JSON lists and
ArrayRecord, which are for training, hold the kept texts alone. Rows whose image could not be
scored are in none of them: they are in the scores, with the reason. Images are copied as bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from blip_jax.capfilt.read import Row, Text
from blip_jax.capfilt.table import text_type, told
from blip_jax.data import storage
from blip_jax.data.formats import array_record, tar, webdataset
from blip_jax.data.formats.shard import Shard
from blip_jax.data.images import image_form
from blip_jax.data.record import Record
from blip_jax.data.rows import SYNTHETIC, to_json

SUFFIXES = {
    "webdataset": "tar",
    "parquet": "parquet",
    "json": "json",
    "array_record": "array_record",
}
ANNOTATION = "capfilt"  # every text of an image with its scores, in KEY.syn.json and in parquet
_INSIDE = ("webdataset", "array_record", "tfds")  # forms whose images have no address
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Output:
    """Which data a run writes.

    Attributes:
      form: of the corpus.
      to: a key of SUFFIXES.
      threshold: ITM probability of a kept text.
      folder: where the data will lie in the end, for paths that are relative to it.
    """

    form: str
    to: str
    threshold: float
    folder: str

    def __post_init__(self) -> None:
        if self.to not in SUFFIXES:
            raise ValueError(f"to is {self.to!r}; expected one of {', '.join(SUFFIXES)}")
        if self.to == "json" and self.form in _INSIDE:
            raise ValueError(
                f"a JSON list names images by their address, but those of {self.form} have none; "
                "expected --to webdataset, parquet or array_record"
            )

    def write(self, shard: Shard, rows: Sequence[Row], path: Path) -> int:
        """Writes a shard's file and returns how many samples it holds; no file where none."""
        if not any(self._belongs(row) for row in rows):
            return 0
        if self.form == self.to and self.to in _COPIES:
            return _COPIES[self.to](self, shard, rows, path)
        return _WRITERS[self.to](self, self._records(shard, rows), path)

    def _belongs(self, row: Row) -> bool:
        if row.status != "ok" or self.to in ("webdataset", "parquet"):
            return row.status == "ok"
        return any(text.kept(self.threshold) for text in row.texts)

    def _records(self, shard: Shard, rows: Sequence[Row]) -> Iterator[tuple[Record, Row]]:
        """The shard is read a second time: its images are too many to be held."""
        for record, row in zip(shard.rows(), rows, strict=True):
            if isinstance(record, Record) and self._belongs(row):
                yield record, row

    def kept(self, row: Row, origin: str) -> tuple[str, ...]:
        """A row's kept texts of an origin."""
        return tuple(
            text.text for text in row.texts if text.origin == origin and text.kept(self.threshold)
        )


Pairs = Iterator[tuple[Record, Row]]


def _copy_tar(output: Output, shard: Shard, rows: Sequence[Row], path: Path) -> int:
    """Every file of a sample as it is, and KEY.syn.json."""
    count = 0
    with (
        storage.open_binary(shard.place) as stream,
        tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive,
    ):
        samples = webdataset.groups(tar.members(stream, shard.place))
        for sample, row in zip(samples, rows, strict=False):
            if row.status != "ok" or isinstance(sample, tar.Damage):
                continue
            key, members = sample
            for member in members:
                if not member.name.lower().endswith(".syn.json"):
                    tar.add(archive, member.name, member.content)
            written = {SYNTHETIC: list(output.kept(row, "synthetic"))}
            written[ANNOTATION] = told(row, output.threshold)  # type: ignore[assignment]
            tar.add(archive, f"{key}.syn.json", to_json(written))
            count += 1
    return count


def _copy_parquet(output: Output, shard: Shard, rows: Sequence[Row], path: Path) -> int:
    """The columns as they are, and what `_columns` adds."""
    import pyarrow as pa
    from pyarrow import parquet

    start, count, writer = 0, 0, None
    with storage.open_binary(shard.place) as stream:
        try:
            for batch in parquet.ParquetFile(stream).iter_batches(_BATCH):
                part = rows[start : start + batch.num_rows]
                start += batch.num_rows
                table = pa.Table.from_batches([batch])
                table = table.filter(pa.array([row.status == "ok" for row in part]))
                table = _columns(output, table, [row for row in part if row.status == "ok"])
                writer = writer or parquet.ParquetWriter(path, table.schema)
                writer.write_table(table)
                count += table.num_rows
        except pa.ArrowException:
            if any(row.status == "ok" for row in rows[start:]):
                raise  # what could be read before cannot be read now
        finally:
            if writer is not None:
                writer.close()
    return count


def _columns(output: Output, table: Any, rows: Sequence[Row]) -> Any:
    """A table with syn_text, the kept synthetic texts, and capfilt, every text and score."""
    import pyarrow as pa

    synthetic = pa.array([output.kept(row, "synthetic") for row in rows], pa.list_(pa.string()))
    texts = pa.array([told(row, output.threshold) for row in rows], pa.list_(text_type()))
    for name, values in ((SYNTHETIC, synthetic), (ANNOTATION, texts)):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, values)
    return table


def _write_tar(output: Output, pairs: Pairs, path: Path) -> int:
    count = 0
    writer = webdataset.Writer(path)
    try:
        for record, row in pairs:
            image = record.image_bytes()
            record = dataclasses.replace(record, synthetic=output.kept(row, "synthetic"))
            more = {ANNOTATION: told(row, output.threshold)}
            writer.write(record, image, image_form(image), more)
            count += 1
    finally:
        writer.close()
    return count


def _write_parquet(output: Output, pairs: Pairs, path: Path) -> int:
    """As Hugging Face's viewer reads it: `image` is a struct of bytes and path."""
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = ("uid", "key", "image_id", "source", "extra")
    fields = [*((name, pa.string()) for name in names), ("image", image)]
    schema = pa.schema([*fields, ("captions", pa.list_(pa.string()))])

    def plain(record: Record, row: Row) -> dict[str, Any]:
        address = None if isinstance(record.image, bytes) else str(record.image)
        return {
            "uid": row.uid,
            "key": row.key,
            "image_id": record.image_id,
            "source": row.source,
            "extra": to_json(record.extra).decode(),
            "image": {"bytes": record.image_bytes(), "path": address},
            "captions": [text.text for text in row.texts if text.origin == "web"],
        }

    count, writer = 0, None
    lines: list[dict[str, Any]] = []
    rows: list[Row] = []

    def flush() -> None:
        nonlocal count, writer
        table = _columns(output, pa.Table.from_pylist(lines, schema), rows)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
        count += len(rows)
        lines.clear()
        rows.clear()

    try:
        for record, row in pairs:
            lines.append(plain(record, row))
            rows.append(row)
            if len(rows) == _BATCH:
                flush()
        if rows:
            flush()
    finally:
        if writer is not None:
            writer.close()
    return count


def _write_json(output: Output, pairs: Pairs, path: Path) -> int:
    """BLIP's list: a row a kept text."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record, row in pairs:
            for text in row.texts:
                if text.kept(output.threshold):
                    file.write(",\n" if count else "[\n")
                    file.write(json.dumps(_blip_row(output, record, row, text)))
                    count += 1
        file.write("\n]\n")
    return count


def _blip_row(output: Output, record: Record, row: Row, text: Text) -> dict[str, str]:
    if isinstance(record.image, bytes):
        raise ValueError(
            f"{row.uid}: a JSON list names images by their address, but this one is in its row; "
            "expected --to webdataset, parquet or array_record"
        )
    address = str(record.image)
    if not storage.is_remote(address):
        local = not storage.is_remote(output.folder)
        address = os.path.relpath(address, output.folder) if local else os.path.abspath(address)
    return {
        "image": address,
        "caption": text.text,
        "image_id": record.image_id,
        "source": row.source,
        "origin": text.origin,
    }


def _write_array_record(output: Output, pairs: Pairs, path: Path) -> int:
    count = 0
    writer = array_record.Writer(path)
    try:
        for record, row in pairs:
            web, synthetic = (output.kept(row, origin) for origin in ("web", "synthetic"))
            image = record.image_bytes()
            record = dataclasses.replace(record, captions=web, synthetic=synthetic)
            writer.write(record, image, image_form(image))
            count += 1
    finally:
        writer.close()
    return count


_COPIES: dict[str, Callable[[Output, Shard, Sequence[Row], Path], int]] = {
    "webdataset": _copy_tar,
    "parquet": _copy_parquet,
}
_WRITERS: dict[str, Callable[[Output, Pairs, Path], int]] = {
    "webdataset": _write_tar,
    "parquet": _write_parquet,
    "json": _write_json,
    "array_record": _write_array_record,
}
