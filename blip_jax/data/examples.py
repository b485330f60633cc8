"""From a record to a training example: one of its texts, and a random view of its image."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from blip_jax.data.augment import RandomAugment, TextNoise, random_flip, read_crop
from blip_jax.data.images import ImageError, to_array
from blip_jax.data.record import Record
from blip_jax.data.text import pre_caption, swap_left_right

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.5


@dataclass(frozen=True)
class ImageTextOptions:
    """How a record becomes a row of a batch.

    Attributes:
      image_size: side of the square image, in pixels.
      max_tokens: token length T of every text, special tokens included.
      flip: mirror half of the images, and exchange left and right in their captions.
      randaugment: apply BLIP's RandomAugment(2, 5).
      prompt: put before the cleaned caption, as it is.
      crop_scale: bounds of the crop's share of the image's area.
      as_released: RandomAugment with Brightness and Sharpness that change nothing, as the
        released code has them.
      synthetic_share: probability of a synthetic text for a record that has web texts too; by
        default every text is as likely.
      text_noise: words dropped, swapped and masked in the cleaned caption.
    """

    image_size: int
    max_tokens: int
    flip: bool
    randaugment: bool
    prompt: str = ""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    as_released: bool = False
    synthetic_share: float | None = None
    text_noise: TextNoise | None = None


class Skips:
    """What the pipeline could not use whole: `counts` by reason, each record once.

    Reasons are unreadable_image and truncated_caption. Safe to share between threads; a copy in
    another process counts for itself and hands over what is new.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._new: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def add(self, reason: str, uid: str) -> bool:
        """Counts the record, unless it was; True if it is new."""
        with self._lock:
            if (reason, uid) in self._seen:
                return False
            self._seen.add((reason, uid))
            self._new.append((reason, uid))
            self.counts[reason] += 1
            return True

    def hand_over(self) -> list[tuple[str, str]]:
        """(reason, uid) of what was counted since the last time."""
        with self._lock:
            new, self._new = self._new, []
            return new

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


@dataclass(frozen=True)
class Example:
    """One row before batching: image uint8 [S, S, 3], text with its prompt."""

    record: Record
    image: np.ndarray
    text: str


class ExampleReader:
    """Record and random generator -> Example, or None where the image cannot be read.

    Raises:
      ValueError: on a call, once more than half of the images could not be read, of those of an
        epoch or of a thousand.
    """

    def __init__(self, options: ImageTextOptions, skips: Skips, total: int):
        self.options, self.skips = options, skips
        self.enough = min(total, 1000)  # rows that tell how it stands
        self.tried = self.failed = 0

    def __call__(self, record: Record, rng: np.random.Generator) -> Example | None:
        text = draw_text(record, self.options.synthetic_share, rng)
        self.tried += 1
        try:
            image, text = self._view(record, text, rng)
        except ImageError as error:
            self._count(record, error)
            return None
        return Example(record, image, self.options.prompt + self._clean(text, rng))

    def _view(self, record: Record, text: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        options = self.options
        image = read_crop(record.image, options.image_size, rng, options.crop_scale)
        if options.flip:
            image, flipped = random_flip(image, rng)
            text = swap_left_right(text) if flipped else text
        if options.randaugment:
            image = RandomAugment(as_released=options.as_released)(image, rng)
        return to_array(image), text

    def _clean(self, text: str, rng: np.random.Generator) -> str:
        clean = pre_caption(text)
        return clean if self.options.text_noise is None else self.options.text_noise(clean, rng)

    def _count(self, record: Record, error: ImageError) -> None:
        if self.skips.add("unreadable_image", record.uid):
            log.warning("%s skipped: %s", record.uid, error)
        self.failed += 1
        if self.tried >= self.enough and self.failed > MAX_UNREADABLE * self.tried:
            raise ValueError(
                f"More than half of {self.tried} images could not be read; last: {error}"
            ) from error


def draw_text(record: Record, synthetic_share: float | None, rng: np.random.Generator) -> str:
    """One of a record's texts."""
    texts = record.captions + record.synthetic
    if synthetic_share is not None and record.captions and record.synthetic:
        texts = record.synthetic if rng.random() < synthetic_share else record.captions
    return texts[int(rng.integers(len(texts)))]
