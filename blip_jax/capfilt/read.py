"""CapFilt's host side: rows in, batches of decoded images out, ahead of the device."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, Literal, TypeVar

import numpy as np

from blip_jax.data.images import ImageError, open_image, resize_square, to_array
from blip_jax.data.pipeline import THREADS
from blip_jax.data.record import Record, Skip
from blip_jax.data.text import pre_caption
from blip_jax.inference.batching import power_of_two
from blip_jax.tokenizer import Tokenizer

SHORTEST = 16  # tokens of the smallest compiled text length; the others are its doubles

T = TypeVar("T")
_END: object = object()


@dataclass
class Text:
    """A text of an image. `log_prob` is the captioner's, None for texts it did not write; `itm`
    (probability) and `itc` (cosine) are the filter's, None where the image could not be seen."""

    text: str
    origin: Literal["web", "synthetic"]
    method: str = ""  # how it was decoded; "input" for synthetic texts that came with the record
    log_prob: float | None = None
    itm: float | None = None
    itc: float | None = None

    def kept(self, threshold: float) -> bool:
        """The paper's rule: each text is judged for itself, by its ITM probability."""
        return bool(self.text) and self.itm is not None and self.itm >= threshold


@dataclass
class Row:
    """What comes out for a row that went in.

    Attributes:
      uid, key, source: as the row has them; `key` is a tar's, else the end of the uid.
      status: "ok", or in one word why there are no scores; `detail` says it in a sentence.
      image_sha256: of the encoded bytes.
      width, height: pixels of the image as it is stored.
      texts: the row's own, untouched, then those that were written.
      embedding: the image's ITC vector, float16 [E].
    """

    uid: str
    key: str
    source: str
    status: str = "ok"
    detail: str = ""
    image_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    texts: list[Text] = field(default_factory=list)
    embedding: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Images of one compiled shape: at most B rows, and pixels uint8 [B, S, S, 3], of which the
    last one is repeated to fill it up."""

    rows: Sequence[Row]
    pixels: np.ndarray


@dataclass(frozen=True)
class End(Generic[T]):
    """All batches of a unit were read. Its rows, in the order they came in."""

    unit: T
    rows: list[Row]


@dataclass(frozen=True)
class Reader:
    """Decodes every image once. `size` and `batch_size` are those of the compiled programs."""

    tokenizer: Tokenizer
    size: int
    batch_size: int
    max_tokens: int

    def read(self, units: Iterable[tuple[T, Iterable[Record | Skip]]]) -> Iterator[Batch | End[T]]:
        """The batches of each unit, then its end. No batch holds rows of two units, so what is
        computed of a unit depends on nothing else."""
        for unit, rows in units:
            found: list[Row] = []
            yield from self._batches(rows, found)
            yield End(unit, found)

    def _batches(self, rows: Iterable[Record | Skip], found: list[Row]) -> Iterator[Batch]:
        """Images whose texts are of similar length share a batch, that short texts need not be
        padded to the longest; what is left at the end is batched together."""
        waiting: dict[int, list[tuple[Row, np.ndarray]]] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            source = iter(_distinct(rows))
            while window := list(islice(source, self.batch_size)):
                for row, pixels in pool.map(self._see, window):
                    found.append(row)
                    if pixels is not None:
                        length = self._length(row)
                        same = waiting.setdefault(length, [])
                        same.append((row, pixels))
                        if len(same) == self.batch_size:
                            yield self._batch(waiting.pop(length))
        rest = [entry for length in sorted(waiting) for entry in waiting[length]]
        for start in range(0, len(rest), self.batch_size):
            yield self._batch(rest[start : start + self.batch_size])

    def _batch(self, entries: Sequence[tuple[Row, np.ndarray]]) -> Batch:
        pixels = [pixels for _, pixels in entries]
        pixels += pixels[-1:] * (self.batch_size - len(pixels))
        return Batch([row for row, _ in entries], np.stack(pixels))

    def _length(self, row: Row) -> int:
        return text_length(self.tokenizer, [t.text for t in row.texts], self.max_tokens)

    def _see(self, row: Record | Skip) -> tuple[Row, np.ndarray | None]:
        """A row and its pixels; None where there are none."""
        uid = _unicode(row.uid)
        key = _unicode(str(row.extra.get("key") or uid.rpartition("/")[2]))
        if isinstance(row, Skip):
            source = _unicode(str(row.extra.get("source") or uid.partition("/")[0]))
            return Row(uid, key, source, row.reason, _unicode(row.detail)), None
        seen = Row(uid, key, _unicode(row.source))
        seen.texts = [Text(_unicode(text), "web") for text in row.captions]
        seen.texts += [Text(_unicode(text), "synthetic", "input") for text in row.synthetic]
        try:
            content = row.image_bytes()
            seen.image_sha256 = hashlib.sha256(content).hexdigest()
            image = open_image(content)
        except (ImageError, OSError, EOFError, ValueError) as error:
            where = "" if isinstance(row.image, bytes) else f" ({row.image})"
            seen.status = "unreadable_image"
            seen.detail = _unicode(f"{row.uid}{where}: {error}")
            return seen, None
        seen.width, seen.height = image.size
        return seen, to_array(resize_square(image, self.size))


def text_length(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> int:
    """Tokens of the compiled program that scores these texts: `SHORTEST`, its doubles, or all."""
    counts = tokenizer.count([pre_caption(text) for text in texts])
    return power_of_two(max(SHORTEST, *counts, 0), max_tokens)


def _unicode(text: str) -> str:
    """The text without halves of surrogate pairs, which neither parquet nor a tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The items of an iterator that runs up to `depth` items ahead in a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, items, _END))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)


def _distinct(rows: Iterable[Record | Skip]) -> Iterator[Record | Skip]:
    """Of records with the same uid only the first: captions are drawn from the uid."""
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Record) and row.uid in seen:
            row = Skip(row.uid, "duplicate_uid", f"{row.uid} is there twice.", row.extra)
        elif isinstance(row, Record):
            seen.add(row.uid)
        yield row
