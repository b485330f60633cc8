"""Any corpus to ArrayRecord or WebDataset shards, in parallel and restartable."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from blip_jax.data import storage
from blip_jax.data.corpus import Corpus
from blip_jax.data.formats import array_record, webdataset
from blip_jax.data.formats.shard import Shard
from blip_jax.data.images import ImageError, image_form, open_image
from blip_jax.data.record import MAX_LOST, Account, Record, Skip
from blip_jax.files import Progress, differing, silent

log = logging.getLogger(__name__)

Format = Literal["array_record", "webdataset"]
WRITERS: dict[str, Any] = {"array_record": array_record.Writer, "webdataset": webdataset.Writer}
# img2dataset's name: tools that know its layout take a shard with this file as done.
_MARKER = "_stats.json"


@dataclass(frozen=True)
class Output:
    """What became of a shard; written beside it, last, as the mark that it is whole.

    Attributes:
      name: of the shard.
      file: its file, beside this one; None where no row was kept.
      bytes, sha256: of the file.
      count: rows read.
      successes: records written.
      status_dict: rows by what became of them: "success", or the reason of the loss.
      examples: a sentence for each of the first few lost rows.
    """

    name: str
    file: str | None
    bytes: int
    sha256: str
    count: int
    successes: int
    status_dict: dict[str, int]
    examples: list[str]


def convert(
    corpus: Corpus,
    target: str,
    to: Format,
    *,
    processes: int = 1,
    max_lost: float = MAX_LOST,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Writes every shard of a corpus to `target`, a folder on disk or in a bucket.

    A shard's file appears whole or not at all, its `NAME_stats.json` after it; the same call
    carries on after a stop and does not do again what is done. Every image is decoded once, so
    that training meets no broken one; its bytes are written as they are. `manifest.json` names
    every file with its size, checksum and rows.

    Returns:
      The manifest.

    Raises:
      ValueError: the folder holds another conversion, or more than `max_lost` of the rows are lost.
    """
    _claim(target, {"from": corpus.place, "to": to, "shards": len(corpus.shards)})
    account = Account(corpus.place, max_lost)
    outputs: dict[str, Output] = {}
    for output in _run(corpus, target, to, processes):
        outputs[output.name] = output
        account.kept += output.successes
        account.skipped += Counter({k: n for k, n in output.status_dict.items() if k != "success"})
        account.examples += output.examples
        if account.kept + account.skipped.total() >= 1000:
            account.judge()
        progress(len(outputs), len(corpus.shards))
    account.judge()
    account.tell()
    manifest = {
        "format": to,
        "from": corpus.place,
        "records": account.kept,
        "lost": dict(account.skipped),
        "shards": [asdict(outputs[shard.name]) for shard in corpus.shards],
    }
    storage.write_bytes(storage.join(target, "manifest.json"), _dumps(manifest))
    return manifest


def convert_shard(shard: Shard, target: str, to: Format) -> Output:
    """One shard's file and its marker; nothing where the marker is there and the file fits it."""
    marker = storage.join(target, shard.name + _MARKER)
    if (done := _done(marker, target)) is not None:
        return done
    counts: Counter[str] = Counter()
    examples: list[str] = []
    # Aside, but on the same disk: hidden, so that what a kill leaves is not taken for data.
    aside = None if storage.is_remote(target) else target
    with tempfile.TemporaryDirectory(dir=aside, prefix=".partial-") as folder:
        path = Path(folder) / f"{shard.name}.{WRITERS[to].suffix}"
        writer = WRITERS[to](path)
        try:
            for row in shard.rows():
                status = row if isinstance(row, Skip) else _write(writer, row)
                counts["success" if status is None else status.reason] += 1
                if status is not None and len(examples) < 5:
                    examples.append(status.detail)
        finally:
            writer.close()
        size, digest = path.stat().st_size, _sha256(path)
        kept = counts["success"]
        if kept:
            storage.put(path, storage.join(target, path.name))
    file = path.name if kept else None
    output = Output(shard.name, file, size, digest, counts.total(), kept, dict(counts), examples)
    storage.write_bytes(marker, _dumps(asdict(output)))
    return output


def _write(writer: Any, record: Record) -> Skip | None:
    try:
        image = record.image_bytes()
        open_image(image)
    except (ImageError, OSError) as error:
        return Skip(record.uid, "unreadable_image", f"{record.uid}: {error}")
    writer.write(record, image, image_form(image))
    return None


def _run(corpus: Corpus, target: str, to: Format, processes: int) -> Iterator[Output]:
    one = partial(convert_shard, target=target, to=to)
    if processes == 1:
        yield from map(one, corpus.shards)
        return
    # Forked workers could inherit a lock that is held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        waiting: set[Future[Output]] = set()
        try:
            for shard in corpus.shards:
                waiting.add(pool.submit(one, shard))
                if len(waiting) >= 2 * processes:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        finally:
            pool.shutdown(cancel_futures=True)


def _claim(target: str, settings: dict[str, Any]) -> None:
    """Writes down what the folder holds, or checks that it is the same."""
    if not storage.is_remote(target):
        os.makedirs(target, exist_ok=True)
    place = storage.join(target, "conversion.json")
    if not storage.exists(place):
        storage.write_bytes(place, _dumps(settings))
        return
    found = _load(place)
    if found != settings:
        differ = ", ".join(differing(found, settings))
        raise ValueError(f"{target} holds another conversion ({differ}); expected a new folder.")


def _done(marker: str, target: str) -> Output | None:
    if not storage.exists(marker):
        return None
    output = Output(**_load(marker))
    if output.file is None or storage.size(storage.join(target, output.file)) == output.bytes:
        return output
    return None


def _load(place: str) -> dict[str, Any]:
    with storage.open_binary(place) as file:
        return json.load(file)


def _dumps(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
