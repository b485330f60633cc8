"""CapFilt's pass: the captioner writes, the filter scores (paper section 3.3). Rows in, rows out.

`Scorer.units` is the one pass there is: over the shards of a corpus in `blip-jax capfilt run`,
over chunks of records held in memory in `blip-jax bootstrap`.
"""

import contextlib
import dataclasses
import functools
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from blip_jax.capfilt.read import Batch, End, Reader, Row, Text, ahead, text_length
from blip_jax.data.record import Record, Skip
from blip_jax.data.text import pre_caption
from blip_jax.inference.caption import CaptionOptions, seed_keys, write_captions
from blip_jax.inference.embed import encode_images
from blip_jax.inference.match import score_tokens
from blip_jax.inference.trained import spread
from blip_jax.model import ABILITIES, Model
from blip_jax.models.blip import Blip

BATCHES_AHEAD = 3  # decoded while the device is busy

T = TypeVar("T")
Program = Callable[..., Any]  # (params, *arrays of rows)
Seconds = dict[str, float]  # by stage: decode (waiting for images), caption, score, other


@dataclasses.dataclass(frozen=True)
class CapFiltOptions:
    """Settings of the pass. They are written beside the scores; others refuse to resume them."""

    caption: CaptionOptions
    seed: int = 0
    max_tokens: int = 35  # of a scored text, as the original's ITM
    batch_size: int = 64  # images of a compiled batch, which the devices share
    shared_tower: bool = False  # the captioner reads the image tokens of the filter


class Scorer:
    """The two models, and what they are asked.

    A row's captions are drawn from (seed, uid). Batches have one shape and hold rows of one unit
    alone, so a unit's rows are the same bytes wherever and whenever they are computed, on the
    same kind and number of devices and version of jax. All devices of the process share a batch.
    """

    def __init__(self, captioner: Model, matcher: Model, options: CapFiltOptions):
        """Raises ValueError: the models cannot do this, or not with one picture."""
        for role, model, ability in (
            ("captioner", captioner, "caption"),
            ("filter", matcher, "match"),
        ):
            if ability not in ABILITIES[model.config.task]:
                raise ValueError(f"the {role} is a {model.config.task} model: it cannot {ability}")
        sizes = [model.config.vision.image_size for model in (captioner, matcher)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"the captioner sees {sizes[0]} pixels and the filter {sizes[1]}; "
                "open both with one image_size"
            )
        if options.shared_tower and captioner.config.vision != matcher.config.vision:
            raise ValueError("shared_tower needs a captioner and a filter with equal ViTs")
        self.captioner = captioner.on_every_device()
        self.matcher = self.captioner if matcher is captioner else matcher.on_every_device()
        self.options = options
        rows = self.matcher.rows(options.batch_size)
        self.reader = Reader(matcher.tokenizer, sizes[0], rows, options.max_tokens)
        self._encode, self._score_tokens = filter_programs(self.matcher.blip, self.matcher.mesh)

    def units(
        self, units: Iterable[tuple[T, Iterable[Record | Skip]]]
    ) -> Iterator[tuple[T, list[Row], Seconds]]:
        """Captions and scores the rows of each unit; the next are decoded meanwhile.

        Yields:
          The unit, a row for every row of it, in order, and where the time went.

        Raises:
          RuntimeError: the filter gives NaN.
        """
        start, seconds = time.perf_counter(), Counter[str]()
        events = ahead(self.reader.read(units), BATCHES_AHEAD)
        with contextlib.closing(events):  # type: ignore[type-var]
            while True:
                with clock(seconds, "decode"):
                    event = next(events, None)
                if isinstance(event, Batch):
                    self._score(event, seconds)
                elif isinstance(event, End):
                    other = time.perf_counter() - start - seconds.total()
                    yield event.unit, event.rows, {**seconds, "other": other}
                    start, seconds = time.perf_counter(), Counter[str]()
                else:
                    return

    def _score(self, batch: Batch, seconds: Counter[str]) -> None:
        """Fills in the texts, scores and vectors of a batch's rows."""
        options, matcher = self.options, self.matcher
        uids = [row.uid for row in batch.rows]
        uids += uids[-1:] * (len(batch.pixels) - len(uids))
        keys = seed_keys([record_seed(options.seed, uid) for uid in uids])
        pixels: Any = jax.device_put(matcher.place(batch.pixels))
        seen = None
        with clock(seconds, "caption"):
            if options.shared_tower:
                seen = self._encode(matcher.on_device, pixels)
            images = pixels if seen is None else seen[0]
            captions, log_probs = write_captions(self.captioner, images, keys, options.caption)
        with clock(seconds, "score"):
            for row, written, values in zip(batch.rows, captions, log_probs, strict=False):
                how = options.caption.method
                pairs = zip(written, values, strict=True)
                row.texts += [Text(t, "synthetic", how, float(p)) for t, p in pairs]
            seen = seen or self._encode(matcher.on_device, pixels)
            self._match(batch, *seen)

    def _match(self, batch: Batch, tokens: jax.Array, vectors: jax.Array) -> None:
        """Scores as many texts an image at a time as most have; rows with more take more rounds."""
        slots = self.options.caption.num_captions + 1
        rounds = -(-max(len(row.texts) for row in batch.rows) // slots)
        for start in range(0, rounds * slots, slots):
            parts = [row.texts[start : start + slots] for row in batch.rows]
            self._match_round(parts, tokens, vectors)
        for row, vector in zip(batch.rows, np.asarray(vectors), strict=False):
            row.embedding = vector.astype(np.float16)

    def _match_round(
        self, parts: Sequence[Sequence[Text]], tokens: jax.Array, vectors: jax.Array
    ) -> None:
        model, slots = self.matcher, self.options.caption.num_captions + 1
        texts = [[pre_caption(text.text) for text in part] for part in parts]
        texts += [[]] * (len(tokens) - len(texts))
        flat = [text for part in texts for text in [*part, *[""] * (slots - len(part))]]
        length = text_length(model.tokenizer, flat, self.options.max_tokens)
        ids, mask = model.tokenizer.encode(flat, max_length=length)
        encoded = [model.place(x.reshape(-1, slots, length)) for x in (ids, mask)]
        scores = self._score_tokens(model.on_device, tokens, vectors, *encoded)
        itm, itc = jax.device_get(scores)
        if not (np.isfinite(itm).all() and np.isfinite(itc).all()):
            raise RuntimeError("the filter gives scores that are no numbers: it has diverged")
        for part, *values in zip(parts, itm, itc, strict=False):
            for text, *pair in zip(part, *values, strict=False):
                text.itm, text.itc = map(float, pair)


@functools.lru_cache(maxsize=8)
def filter_programs(blip: Blip, mesh: Mesh | None) -> tuple[Program, Program]:
    """`encode_images` and `score_tokens`, each device with rows of its own."""
    one, two = (spread(functools.partial(f, blip), mesh) for f in (encode_images, score_tokens))
    return one, two


def record_seed(seed: int, uid: str) -> int:
    """What a record's samples are drawn from."""
    return zlib.crc32(f"{seed}/{uid}".encode())


@contextlib.contextmanager
def clock(seconds: Counter[str], stage: str) -> Iterator[None]:
    """Adds what its block takes to a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start  # type: ignore[assignment]
