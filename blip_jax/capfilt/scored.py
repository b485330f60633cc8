"""Reading what `blip-jax capfilt run` has finished: settings, markers, scores, embeddings.

RUN/run.json                  settings
RUN/scores/NAME.parquet       a row an image, with every text and its scores
RUN/scores/NAME_stats.json    the mark that NAME is whole
RUN/embeddings/NAME.npy       ITC image embeddings, float16 [rows, E]; may be absent
RUN/data/                     the images
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from blip_jax.data import storage

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = "_stats.json"


@dataclass(frozen=True)
class ScoredRun:
    """A run of CapFilt, of which `names` are finished shards and `missing` are not.

    Attributes:
      place: its folder, on disk or in a bucket.
      settings: of run.json.
      markers: of the finished shards, in the order of `names`.
    """

    place: str
    settings: dict[str, Any]
    names: tuple[str, ...]
    missing: tuple[str, ...]
    markers: tuple[dict[str, Any], ...]

    @property
    def threshold(self) -> float:
        """The ITM probability that the run itself kept texts by."""
        return float(self.settings["threshold"])

    def file(self, folder: str, name: str) -> str:
        """The address of a file of the run."""
        return storage.join(storage.join(self.place, folder), name)

    def table(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Columns of a shard's scores.

        Raises:
          ValueError: a damaged file, or one without these columns or with other rows than its
            marker tells.
        """
        place = self.file("scores", f"{name}.parquet")
        table = read_parquet(place, columns)
        told = self.markers[self.names.index(name)].get("rows")
        if told != table.num_rows:
            raise ValueError(f"{place} has {table.num_rows} rows; its marker tells {told}.")
        return table

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """(name, columns) of every finished shard, in order."""
        for name in self.names:
            yield name, self.table(name, columns)

    def embeddings(self, name: str) -> np.ndarray | None:
        """float16 [rows, E] of a shard; None if the run kept none.

        Raises:
          ValueError: a damaged file.
        """
        place = self.file("embeddings", f"{name}.npy")
        if not storage.exists(place):
            return None
        try:
            with storage.open_binary(place) as file:
                return np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{place} is no whole .npy file: {one_line(error)}.") from error


def open_run(place: str) -> ScoredRun:
    """Finds out what of a run is finished; a shard without a marker is not.

    Raises:
      FileNotFoundError: no run.json there.
      ValueError: run.json or a marker is damaged, or no shard is finished.
    """
    place = place.rstrip("/")
    path = storage.join(place, "run.json")
    if not storage.exists(path):
        raise FileNotFoundError(f"{place}: expected the folder of a `blip-jax capfilt run`.")
    settings = read_object(path, ("shards", "threshold"))
    folder = storage.join(place, "scores")
    files = storage.list_files(folder) if storage.is_folder(folder) else []
    there = {file.rpartition("/")[2] for file in files}
    shards = [str(name) for name in settings["shards"]]
    names = [name for name in shards if name + MARKER in there]
    missing = [name for name in shards if name + MARKER not in there]
    if not names:
        raise ValueError(f"{place}: none of its {len(shards)} shards is finished.")
    markers = [read_object(storage.join(folder, name + MARKER), ("rows",)) for name in names]
    return ScoredRun(place, settings, tuple(names), tuple(missing), tuple(markers))


def read_object(place: str, fields: Sequence[str]) -> dict[str, Any]:
    """A JSON object that has these fields.

    Raises:
      ValueError: it has not.
    """
    try:
        with storage.open_binary(place) as file:
            found = json.loads(file.read())
    except ValueError as error:
        raise ValueError(f"{place} is no JSON: {one_line(error)}.") from error
    absent = [f for f in fields if not isinstance(found, dict) or f not in found]
    if absent:
        raise ValueError(f"{place}: expected the field {absent[0]!r}.")
    return found


def read_parquet(place: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a parquet file.

    Raises:
      ValueError: pyarrow is not installed, the file is damaged, or lacks a column.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError("scores are parquet: pip install 'blip-jax[data]'.") from error
    if not storage.exists(place):
        raise ValueError(f"{place} is not there, but its marker is.")
    try:
        with storage.open_binary(place) as stream:
            file = parquet.ParquetFile(stream)
            absent = [c for c in columns if c not in file.schema_arrow.names]
            if absent:
                raise KeyError(absent[0])
            return file.read(columns=list(columns))
    except KeyError as error:
        raise ValueError(f"{place} has no column {error}.") from error
    except (ArrowException, OSError) as error:
        raise ValueError(f"{place} is no whole parquet file: {one_line(error)}.") from error


def one_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
