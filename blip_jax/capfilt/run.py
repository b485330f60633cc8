"""CapFilt over a corpus: restartable, in any number of processes, with the same bytes each time.

OUT/run.json                  settings, hashes of the models, shards; others refuse to go on
OUT/scores/NAME.parquet       a row for every row of the shard, with every text and score
OUT/scores/NAME_stats.json    the mark that NAME is whole, written last
OUT/embeddings/NAME.npy       ITC image embeddings, float16 [rows, E], zeros where not ok
OUT/data/NAME.tar             the data, in the format it came in or another
OUT/README.md ...             about all shards, when the last one is done
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import socket
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from blip_jax.capfilt import about
from blip_jax.capfilt.outputs import SUFFIXES, Output
from blip_jax.capfilt.read import Row
from blip_jax.capfilt.score import CapFiltOptions, Scorer, Seconds
from blip_jax.capfilt.select import THRESHOLD
from blip_jax.capfilt.share import Leases
from blip_jax.capfilt.table import write_scores
from blip_jax.data import storage
from blip_jax.data.corpus import Corpus
from blip_jax.data.formats.shard import Shard
from blip_jax.data.record import Record, Skip
from blip_jax.files import differing, flat
from blip_jax.interop.source import resolve
from blip_jax.model import load

MARKER = "_stats.json"
# The format that data comes out in; all else has images with addresses, and so a JSON list.
_SAME = {"webdataset": "webdataset", "parquet": "parquet", "array_record": "array_record",
         "tfds": "array_record"}  # fmt: skip
_UNCOMPARED = ("versions", "source")  # keys of run.json that another process may have otherwise

Marker = dict[str, Any]
Stop = Callable[[], None]  # raises if the process is to stop


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run does to every shard.

    Attributes:
      captioner, matcher: whatever `blip_jax.load` opens.
      options: of the pass.
      threshold: ITM probability of a kept text.
      to: format of the data: a key of `outputs.SUFFIXES`; None for the one it came in.
      image_size: pixels that both models see; None for what they were trained with.
      reading: what `open_corpus` was told besides the place.
    """

    captioner: str
    matcher: str
    options: CapFiltOptions
    threshold: float = THRESHOLD
    to: str | None = None
    image_size: int | None = None
    reading: dict[str, str | None] = dataclasses.field(default_factory=dict)


class Run:
    """A corpus, the folder its results lie in, and how they are made."""

    def __init__(self, corpus: Corpus, out: str, settings: Settings):
        """Claims the folder.

        Raises:
          ValueError: the folder belongs to another run (the keys that differ are named), or the
            settings do not fit the corpus.
          FileNotFoundError: no such model.
        """
        require_pyarrow()
        self.corpus, self.out, self.settings = corpus, out.rstrip("/"), settings
        to = settings.to or _SAME.get(corpus.form, "json")
        self.output = Output(corpus.form, to, settings.threshold, self._place("data"))
        self.facts = {
            "corpus": corpus.place,
            "form": corpus.form,
            "reading": settings.reading,
            "to": to,
            "captioner": model_facts(settings.captioner),
            "filter": model_facts(settings.matcher),
            "threshold": settings.threshold,
            "image_size": settings.image_size,
            **dataclasses.asdict(settings.options),
            "shards": [shard.name for shard in corpus.shards],
            "versions": {name: version(name) for name in ("blip-jax", "jax", "pyarrow", "pillow")},
        }
        asked = compared(self.facts)
        self.digest = hashlib.sha256(_dumps(asked)).hexdigest()
        self._claim(asked)

    @functools.cached_property
    def scorer(self) -> Scorer:
        """The models, opened when the first shard asks for them."""
        size, settings = self.settings.image_size, self.settings
        captioner = load(settings.captioner, image_size=size)
        same = self.facts["captioner"]["sha256"] == self.facts["filter"]["sha256"]
        matcher = captioner if same else load(settings.matcher, image_size=size)
        return Scorer(captioner, matcher, settings.options)

    def do(self, shard: Shard) -> Marker:
        """Does one shard, unless it is done; returns its marker."""
        return self.done(shard) or next(iter(self.work([shard])))

    def work(
        self, shards: Iterable[Shard], stop: Stop = lambda: None, leases: Leases | None = None
    ) -> Iterator[Marker]:
        """Does those of the shards that are not done, and yields their markers.

        While the device is busy with one shard, the next is read and the last one written.
        With `leases`, only what no other process holds.

        Raises:
          OSError: the disk is full, or may not be written to.
          RuntimeError: the filter gives NaN.
        """
        if leases is None:
            mine: Iterator[Shard] = (shard for shard in shards if self.done(shard) is None)
        else:
            mine = leases.claim(list(shards), lambda s: self.done(s) is not None, stop)
        first = next(mine, None)
        if first is None:  # no need to open the models
            return
        units = ((s, _watched(s, stop)) for s in itertools.chain([first], mine))
        waiting: deque[Future[Marker]] = deque()
        with ThreadPoolExecutor(1) as writer:
            for shard, rows, seconds in self.scorer.units(units):
                waiting.append(writer.submit(self._commit, shard, rows, seconds, leases))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)

    def done(self, shard: Shard) -> Marker | None:
        """The marker of a shard that is whole: its files are there, and as long as it tells."""
        place = self._place("scores", shard.name + MARKER)
        if not storage.exists(place):
            return None
        try:
            with storage.open_binary(place) as file:
                marker = json.load(file)
            sizes = {name: facts["bytes"] for name, facts in marker["files"].items()}
            ours = marker["config"] == self.digest
        except (ValueError, KeyError, TypeError):  # damaged since
            return None
        whole = all(storage.size(self._place(name)) == size for name, size in sizes.items())
        return marker if ours and whole else None

    def status(self) -> Counter[str]:
        """Rows of all shards that are done, by status."""
        found: Counter[str] = Counter()
        for shard in self.corpus.shards:
            if marker := self.done(shard):
                found.update(marker["status"])
        return found

    def finish(self) -> bool:
        """Writes what is about all shards, if all are done; any process may, and all write the
        same."""
        markers = []
        for shard in self.corpus.shards:
            marker = self.done(shard)
            if marker is None:
                return False
            markers.append(marker)
        about.write(self.out, self.facts, markers)
        return True

    def _commit(
        self, shard: Shard, rows: Sequence[Row], seconds: Seconds, leases: Leases | None
    ) -> Marker:
        """Writes a shard's files aside, puts each in its place, and then the marker."""
        start = time.perf_counter()
        try:
            with self._aside() as folder:
                samples, paths = self._write(folder, shard, rows)
                files = {name: _sum(path) for name, path in paths.items()}
                for name, path in paths.items():
                    storage.put(path, self._place(name))
        except OSError as error:
            raise OSError(f"{self.out}: shard {shard.name} is not written: {error}") from error
        seconds = seconds | {"write": time.perf_counter() - start}
        texts = [(text.origin, text.kept(self.settings.threshold)) for r in rows for text in r.texts
                 if r.status == "ok"]  # fmt: skip
        marker = {
            "name": shard.name,
            "rows": len(rows),
            "status": dict(sorted(Counter(row.status for row in rows).items())),
            "samples": samples,
            "texts": dict(sorted(Counter(origin for origin, _ in texts).items())),
            "kept": dict(sorted(Counter(origin for origin, kept in texts if kept).items())),
            "files": files,
            "config": self.digest,
            "seconds": {k: round(v, 4) for k, v in seconds.items()}
            | {"whole": round(sum(seconds.values()), 4)},
        }
        storage.write_bytes(self._place("scores", shard.name + MARKER), _dumps(marker))
        if leases is not None:
            leases.give(shard)
        return marker

    def _write(
        self, folder: Path, shard: Shard, rows: Sequence[Row]
    ) -> tuple[int, dict[str, Path]]:
        """A shard's files in a folder: how many samples the data has, and where each is to go."""
        name = shard.name
        scores, embeddings = folder / "scores", folder / "embeddings.npy"
        data = folder / f"data.{SUFFIXES[self.output.to]}"
        write_scores(scores, rows, self.settings.threshold)
        width = self.scorer.matcher.config.embed_dim
        table = np.zeros((len(rows), width), np.float16)
        for number, row in enumerate(rows):
            if row.embedding is not None:
                table[number] = row.embedding
        np.save(embeddings, table)
        samples = self.output.write(shard, rows, data)
        paths = {f"scores/{name}.parquet": scores, f"embeddings/{name}.npy": embeddings}
        return samples, paths | ({f"data/{name}{data.suffix}": data} if samples else {})

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A folder on the disk of the results, hidden: what a kill leaves is not taken for data."""
        root = None if storage.is_remote(self.out) else self.out
        prefix = f"{_partial()}{os.getpid()}-"
        with tempfile.TemporaryDirectory(dir=root, prefix=prefix) as folder:
            yield Path(folder)

    def _claim(self, asked: dict[str, Any]) -> None:
        place = self._place("run.json")
        if not storage.is_remote(self.out):
            for folder in ("scores", "embeddings", "data"):
                os.makedirs(self._place(folder), exist_ok=True)
            _sweep(Path(self.out))
        if not storage.exists(place):
            storage.write_bytes(place, _dumps(self.facts))
        with storage.open_binary(place) as file:
            # Versions and places of the models are those of the process that came first.
            self.facts = json.load(file)
        if differ := differing(compared(self.facts), asked):
            raise ValueError(
                f"{self.out} belongs to a run with other settings ({', '.join(differ)}); "
                "give the same to carry on, or another folder"
            )

    def _place(self, *names: str) -> str:
        return functools.reduce(storage.join, names, self.out)


def model_facts(source: str) -> dict[str, str]:
    """Where a model comes from, and a sum over its weights and config."""
    path = Path(resolve(source))
    files = [path]
    if path.is_dir():
        weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        files = [*weights, *sorted(path.glob("config.json"))]
    sums = "".join(_sum(file)["sha256"] for file in files)
    return {"source": source, "sha256": hashlib.sha256(sums.encode()).hexdigest()}


def require_pyarrow() -> None:
    """Raises ValueError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ValueError("scores are parquet: pip install 'blip-jax[data]'.") from error


def compared(facts: dict[str, Any]) -> dict[str, Any]:
    """Settings as {"a.b": value}, without those that another process may have otherwise."""
    left_out = set(_UNCOMPARED)
    return {key: value for key, value in flat(facts).items() if not left_out & set(key.split("."))}


def _watched(shard: Shard, stop: Stop) -> Iterator[Record | Skip]:
    for row in shard.rows():
        stop()
        yield row


def _partial() -> str:
    return f".partial-{socket.gethostname()}-"


def _sweep(out: Path) -> None:
    """Removes what processes of this machine left half-written when they were killed."""
    for folder in out.glob(_partial() + "*"):
        pid = int(folder.name.removeprefix(_partial()).partition("-")[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:  # it lives, under another user
            continue


def _sum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _dumps(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
