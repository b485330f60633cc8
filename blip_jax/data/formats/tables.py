"""Rows with columns: BLIP's JSON lists, JSON lines, CSV, TSV and parquet."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from blip_jax.data import storage
from blip_jax.data.formats.folder import IMAGES
from blip_jax.data.formats.shard import Layout, Shard, shard_name
from blip_jax.data.record import Record, Skip
from blip_jax.data.records import load_list
from blip_jax.data.rows import Columns, RowReader

# In a folder of several kinds the first is the data: others tell of it.
KINDS = ("parquet", "jsonl", "csv", "tsv", "json")
_ROWS_A_SHARD = 10_000
_MAX_CELL = 10_000_000
_ROWS_TO_FIND_COLUMNS = 100  # damaged ones may come first
_DAMAGED = (OSError, EOFError, zlib.error)
_load_list = functools.lru_cache(1)(load_list)

Row = tuple[int, object]  # its number and what it holds; a Skip where it cannot be parsed


def shards(files: list[str], layout: Layout) -> list[Shard]:
    """A shard for each file; JSON lists, read whole anyway, in shards of 10,000 rows."""
    return [shard for file in files for shard in _shards(file, layout)]


def _shards(file: str, layout: Layout) -> list[Shard]:
    name, kind = shard_name(file, layout.root), kind_of(file)
    if kind != "json":
        return [Shard(name, file, partial(read, file, kind, layout, name))]
    starts = range(0, len(_load_list(file)), _ROWS_A_SHARD) or [0]
    names = [name if len(starts) == 1 else f"{name}-{n:05d}" for n in range(len(starts))]
    return [
        Shard(part, file, partial(read, file, kind, layout, name, start))
        for part, start in zip(names, starts, strict=True)
    ]


def kind_of(file: str) -> str:
    """One of KINDS, by the name; img2dataset's statistics are none."""
    if file.endswith("_stats.json"):
        return "statistics"
    return file.lower().removesuffix(".gz").rpartition(".")[2]


def read(
    file: str, kind: str, layout: Layout, name: str, start: int = 0
) -> Iterator[Record | Skip]:
    """A file's records.

    Skips: those of `RowReader`, bad_json, bad_row, truncated_file.

    Raises:
      ValueError: no columns of the usual or the given names.
    """
    rows = _ROWS[kind](file, start) if kind == "json" else _ROWS[kind](file)
    reader, wrong = None, None
    for number, row in rows:
        if reader is None and isinstance(row, dict):
            try:
                reader = _reader(file, layout, name, row)
            except ValueError as error:
                wrong = wrong or error
                if number >= _ROWS_TO_FIND_COLUMNS:
                    raise wrong from None
                row = Skip(f"{layout.source}/{name}/{number}", "bad_field", str(error), row)
        if isinstance(row, Skip):
            yield row
        else:
            yield (reader or RowReader(f"{layout.source}/{name}", "")).read(number, row)
    if reader is None and wrong is not None:
        raise wrong


def _reader(file: str, layout: Layout, name: str, row: dict) -> RowReader:
    try:
        columns = Columns.find(row, image=layout.image, caption=layout.caption)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    by_url = downloads(layout.image_root, file) if columns.image is None else None
    root = layout.image_root or file.rpartition("/")[0] or "."
    return RowReader(f"{layout.source}/{name}", root, columns, layout.source, by_url)


@functools.lru_cache(1)
def downloads(folder: str | None, file: str) -> Mapping[str, str]:
    """URL -> image, from the parquet files that img2dataset leaves beside its images.

    Raises:
      ValueError: no folder, or no such parquet files in it.
    """
    if folder is None:
        raise ValueError(f"{file} names images by URL; expected --image_root, the downloads.")
    files = storage.list_files(folder)
    places = {storage.stem(f): f for f in storage.with_suffix(files, *IMAGES)}
    found: dict[str, str] = {}
    for table in storage.with_suffix(files, ".parquet"):
        for _, row in parquet_rows(table, ["url", "key"]):
            if isinstance(row, dict) and row["key"] in places:
                found[row["url"]] = places[row["key"]]
    if not found:
        raise ValueError(f"{folder}: expected img2dataset's parquet files with url and key.")
    return found


def _json(file: str, start: int) -> Iterator[Row]:
    return iter(enumerate(_load_list(file)[start : start + _ROWS_A_SHARD], start))


def _json_lines(file: str) -> Iterator[Row]:
    for number, line in _lines(file):
        if isinstance(line, Skip):
            yield number, line
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            row = Skip(f"{file}/{number}", "bad_json", f"{file}, line {number + 1}: {error}.")
        if line.strip():
            yield number, row


def _lines(file: str) -> Iterator[tuple[int, bytes | Skip]]:
    number = 0
    try:
        with storage.open_binary(file) as stream:
            while line := stream.readline(_MAX_CELL):
                yield number, line
                number += 1
    except _DAMAGED as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        yield number, Skip(f"{file}/{number}", "truncated_file", f"{file} is cut short: {error}.")


def _separated(file: str, separator: str) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)
    lost: list[Skip] = []

    def text() -> Iterator[str]:
        for _, line in _lines(file):
            if isinstance(line, Skip):
                lost.append(line)
            else:
                yield line.decode("utf-8-sig", errors="replace").replace("\0", "")

    if separator == ",":
        reader = csv.DictReader(text())
    else:  # in TSV of alt-texts a quote is a character
        reader = csv.DictReader(text(), delimiter=separator, quoting=csv.QUOTE_NONE)
    for number in itertools.count():
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield number, Skip(f"{file}/{number}", "bad_row", f"{file}, row {number}: {error}.")
            continue
        if None in row or None in row.values():
            wanted = f"expected {len(reader.fieldnames or ())} fields"
            yield number, Skip(f"{file}/{number}", "bad_row", f"{file}, row {number}: {wanted}.")
            continue
        yield number, row
    yield from ((-1, skip) for skip in lost)


def parquet_rows(file: str, columns: list[str] | None = None) -> Iterator[tuple[int, Any]]:
    """Numbered rows as dicts; at the end a Skip, if the file is not whole.

    Raises:
      ValueError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"{file}: parquet needs pyarrow: pip install 'blip-jax[data]'.") from error
    number = 0
    try:
        with storage.open_binary(file) as stream:
            for batch in parquet.ParquetFile(stream).iter_batches(256, columns=columns):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        detail = f"{file} is no whole parquet file: {error}."
        yield number, Skip(f"{file}/{number}", "truncated_file", detail)


_ROWS: dict[str, Callable[..., Iterator[Row]]] = {
    "json": _json,
    "jsonl": _json_lines,
    "csv": partial(_separated, separator=","),
    "tsv": partial(_separated, separator="\t"),
    "parquet": parquet_rows,
}
