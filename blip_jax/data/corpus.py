"""Any image-text data, as shards of records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from blip_jax.data import storage
from blip_jax.data.formats import array_record, folder, tables, tfds, webdataset
from blip_jax.data.formats.shard import Layout, Shard
from blip_jax.data.record import Record, Skip

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Corpus:
    """Data in shards; a shard is the unit of work, and what is made of it is named from it.

    Attributes:
      place: where it lies.
      form: webdataset, array_record, folder, parquet, jsonl, csv, tsv, json or tfds.
    """

    place: str
    form: str
    shards: tuple[Shard, ...]

    def rows(self) -> Iterator[Record | Skip]:
        """Every row of every shard, in order."""
        for shard in self.shards:
            yield from shard.rows()


def open_corpus(
    place: str,
    *,
    image_root: str | None = None,
    image: str | None = None,
    caption: str | None = None,
) -> Corpus:
    """Finds out what lies at a place.

    Args:
      place: a file, a folder, a pattern (`*.tar`, `{00000..00099}.tar`), on disk or in a bucket,
        or `tfds:NAME/SPLIT`. Known are WebDataset tars, ArrayRecord, parquet, JSON lists, JSON
        lines, CSV, TSV (all but parquet also as .gz), and folders of images with .txt beside.
      image_root: the folder that image paths are relative to; the downloads of img2dataset,
        where rows hold URLs; the data_dir of TFDS.
      image, caption: names of the columns, if not the usual ones.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: what is there is none of the known formats.
    """
    place = place.rstrip("/")
    root = place if storage.is_folder(place) else place.rpartition("/")[0]
    source = storage.stem(root if storage.is_folder(place) else place) or "data"
    layout = Layout(source, root, image_root, image, caption)
    if place.startswith(tfds.PREFIX):
        return _corpus(place, "tfds", tfds.shards(place, layout))
    files = _files(place)
    for form, module in (("webdataset", webdataset), ("array_record", array_record)):
        if found := storage.with_suffix(files, *module.SUFFIXES):
            return _corpus(place, form, module.shards(found, layout))
    # Beside images, .json files hold one image's fields each and parquet the downloader's log.
    if storage.with_suffix(files, *folder.IMAGES):
        return _corpus(place, "folder", folder.shards(files, layout))
    for kind in tables.KINDS:
        if found := [f for f in files if tables.kind_of(f) == kind]:
            return _corpus(place, kind, tables.shards(found, layout))
    raise ValueError(
        f"{place}: expected tars, ArrayRecord, parquet, JSON, CSV or TSV files, or images."
    )


def _files(place: str) -> list[str]:
    if storage.is_folder(place):
        return storage.list_files(place)
    if braces := _BRACES.search(place):
        first, last = braces.groups()
        numbers = range(int(first), int(last) + 1)
        files = [_BRACES.sub(f"{n:0{len(first)}d}", place, count=1) for n in numbers]
    elif any(c in place for c in "*?["):
        files = storage.matching(place)
    else:
        files = [place]
    absent = [file for file in files if not storage.exists(file)]
    if absent or not files:
        raise FileNotFoundError(f"There is nothing at {absent[0] if absent else place}.")
    return files


def _corpus(place: str, form: str, shards: list[Shard]) -> Corpus:
    twice = [name for name, count in Counter(s.name for s in shards).items() if count > 1]
    if twice:
        raise ValueError(f"{place}: two files would make shards of the name {twice[0]!r}.")
    return Corpus(place, form, tuple(shards))
