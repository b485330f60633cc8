"""The part of a data set that is read in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blip_jax.data.record import Record, Skip


@dataclass(frozen=True)
class Layout:
    """What cannot be seen from the files themselves.

    Attributes:
      source: the data set's name.
      root: where it lies; shards are named from their place under it.
      image_root: the folder that image paths are relative to; beside the file if None. Where
        rows name their image by URL: the folder img2dataset downloaded into.
      image, caption: columns, if not of the usual names.
    """

    source: str
    root: str
    image_root: str | None = None
    image: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Shard:
    """A part of a data set, of which every reading gives the same rows in the same order.

    Attributes:
      name: unique in the data set; what is made of the shard is named from it.
      place: the file or folder.
      rows: yields a record or a skip for every row. Can be pickled.
    """

    name: str
    place: str
    rows: Callable[[], Iterator[Record | Skip]]


def shard_name(place: str, root: str) -> str:
    """The place under the root, without suffix and slashes: a/b.tar -> a-b."""
    inner = place.removeprefix(root).lstrip("/") or place.rstrip("/").rpartition("/")[2]
    folder, _, name = inner.rpartition("/")
    return "-".join([*folder.split("/"), name.split(".")[0]] if folder else [name.split(".")[0]])
