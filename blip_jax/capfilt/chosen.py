"""The images of a run with the texts that were chosen for them, as data to train on."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from blip_jax.capfilt.scored import ScoredRun, read_parquet
from blip_jax.data import storage
from blip_jax.data.corpus import Corpus, open_corpus
from blip_jax.data.formats.shard import Shard
from blip_jax.data.record import Record, Skip
from blip_jax.files import write_json


def chosen_corpus(run: ScoredRun, choice: Path) -> Corpus:
    """The corpus that a run was made from, with only the texts in a folder of `write_choice`.

    Images without a kept text are left out. Web texts become the captions of a record, synthetic
    ones its `synthetic`.

    Raises:
      FileNotFoundError, ValueError: the corpus is not where it was.
    """
    corpus = open_corpus(str(run.settings["corpus"]), **run.settings.get("reading", {}))
    files = {name: choice / "texts" / f"{name}.parquet" for name in run.names}
    shards = [
        dataclasses.replace(shard, rows=partial(chosen_rows, shard, files[shard.name]))
        for shard in corpus.shards
        if shard.name in files
    ]
    if len(shards) < len(files):
        lost = sorted(files.keys() - {shard.name for shard in shards})
        raise ValueError(f"{corpus.place} has no shard {lost[0]!r} any more.")
    return dataclasses.replace(corpus, place=str(choice / "texts"), shards=tuple(shards))


def chosen_rows(shard: Shard, file: Path) -> Iterator[Record | Skip]:
    """A shard's records that have chosen texts, with these."""
    table = read_parquet(str(file), ("uid", "text", "origin"))
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"web": [], "synthetic": []})
    for row in table.to_pylist():
        texts[row["uid"]][row["origin"]].append(row["text"])
    for record in shard.rows():
        if isinstance(record, Record) and (found := texts.pop(record.uid, None)):
            web, synthetic = tuple(found["web"]), tuple(found["synthetic"])
            yield dataclasses.replace(record, captions=web, synthetic=synthetic)
    for uid in texts:
        yield Skip(uid, "missing_image", f"{uid} is no longer in {shard.place}.")


def write_list(corpus: Corpus, path: Path) -> int:
    """BLIP's list of a chosen corpus whose images are files, a row a text; returns the images.

    Raises:
      ValueError: the images are in tars or other files that a list cannot name.
    """
    rows, images = [], 0
    for record in corpus.rows():
        if isinstance(record, Skip):
            continue
        if isinstance(record.image, bytes):
            raise ValueError("--to=json: images are not files; expected webdataset, array_record")
        images += 1
        address = str(record.image)
        place = address if storage.is_remote(address) else os.path.relpath(address, path.parent)
        fields = {"image": place, "image_id": record.image_id, "uid": record.uid}
        rows += [fields | {"caption": text, "origin": "web"} for text in record.captions]
        rows += [fields | {"caption": text, "origin": "synthetic"} for text in record.synthetic]
    write_json(path, rows)
    return images
