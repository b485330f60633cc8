"""ArrayRecord shards: random access for training in a global shuffle.

A record is a length (uint32, little endian), that many bytes of JSON with the fields `uid`,
`captions`, `synthetic`, `image_id`, `source` and `extra`, and the encoded image to the end.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blip_jax.data import storage
from blip_jax.data.formats.shard import Layout, Shard, shard_name
from blip_jax.data.record import Record, Skip
from blip_jax.data.rows import to_json

SUFFIXES = (".array_record", ".arrayrecord")
_LENGTH = struct.Struct("<I")


def encode(record: Record, image: bytes) -> bytes:
    """A record with its image's bytes, as they are."""
    fields = {
        "uid": record.uid,
        "captions": record.captions,
        "synthetic": record.synthetic,
        "image_id": record.image_id,
        "source": record.source,
        "extra": record.extra,
    }
    head = to_json(fields)
    return _LENGTH.pack(len(head)) + head + image


def decode(content: bytes) -> Record:
    """Inverse of `encode`.

    Raises:
      ValueError: not what `encode` makes.
    """
    try:
        (length,) = _LENGTH.unpack_from(content)
        start = _LENGTH.size + length
        fields = json.loads(content[_LENGTH.size : start])
        return Record(
            uid=fields["uid"],
            image=content[start:],
            captions=tuple(fields["captions"]),
            image_id=fields["image_id"],
            extra=fields["extra"],
            synthetic=tuple(fields["synthetic"]),
            source=fields["source"],
        )
    except (struct.error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not an image-text record of blip_jax ({error!r})") from error


class ArrayRecords(Sequence[Record]):
    """Records of ArrayRecord files on disk, each read when asked for. Can be pickled.

    Raises:
      ValueError: no files, a file that is not whole, or files in a bucket.
    """

    def __init__(self, files: Iterable[str | Path]):
        from grain.sources import ArrayRecordDataSource

        self.files = tuple(str(file) for file in files)
        if not self.files:
            raise ValueError("no ArrayRecord file was given.")
        for file in self.files:
            count_records(file)
        self._source = ArrayRecordDataSource(self.files)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        return decode(self._source[index])

    def __repr__(self) -> str:  # Grain puts it into the iterator's state, so no paths
        return f"ArrayRecords({len(self)} records of {len(self.files)} files)"


def count_records(file: str) -> int:
    """Records of a file on disk.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not whole, or in a bucket.
    """
    if storage.is_remote(file):
        raise ValueError(f"{file}: training reads ArrayRecord from a disk or a mounted bucket.")
    if not Path(file).is_file():
        raise FileNotFoundError(f"No ArrayRecord file at {file}.")
    reader = _open(file)
    try:
        return reader.num_records()
    finally:
        reader.close()


def shards(files: Iterable[str], layout: Layout) -> list[Shard]:
    """A shard for each file."""
    names = [(shard_name(file, layout.root), file) for file in files]
    return [Shard(name, file, partial(read, file)) for name, file in names]


def read(file: str) -> Iterator[Record | Skip]:
    """A file's records, in order; from a bucket through a local copy. Skips: bad_record."""
    with tempfile.TemporaryDirectory() as folder:
        path = file
        if storage.is_remote(file):
            path = f"{folder}/copy"
            with storage.open_binary(file) as remote, open(path, "wb") as local:
                shutil.copyfileobj(remote, local)
        reader = _open(path, file)
        try:
            for number in range(reader.num_records()):
                try:
                    yield decode(reader.read([number])[0])
                except ValueError as error:
                    yield Skip(f"{file}/{number}", "bad_record", f"{file}, {number}: {error}.")
        finally:
            reader.close()


class Writer:
    """Writes records one by one, each its own group, as Grain's random access wants it."""

    suffix = "array_record"

    def __init__(self, path: Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        # Images are compressed already.
        self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def write(self, record: Record, image: bytes, form: str) -> None:
        """Adds a record; readers see the image's form in its bytes."""
        self._writer.write(encode(record, image))

    def close(self) -> None:
        """Ends the file, which is unreadable before.

        Raises:
          OSError: it could not be written whole.
        """
        self._writer.close()


def _open(path: str, name: str | None = None) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    if not reader.ok():
        raise ValueError(f"{name or path} is no whole ArrayRecord file.")
    return reader
