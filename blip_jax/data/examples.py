"""From a row of data to a training example: text as tokens, and a random view of its picture."""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from blip_jax.data import storage
from blip_jax.data.augment import RandomAugment, TextNoise, random_flip, read_crop
from blip_jax.data.formats.array_record import SUFFIXES, ArrayRecords
from blip_jax.data.images import ImageError, to_array
from blip_jax.data.record import Record
from blip_jax.data.records import read_json
from blip_jax.data.text import pre_caption, swap_left_right
from blip_jax.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_UNREADABLE = 0.5
TRUNCATED = "truncated"

Example = dict[str, Any]


def black() -> bytes:
    """The picture of a reader's sample, as a PNG."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    return file.getvalue()


BLACK = black()


class Reader(Protocol):
    """How the data of a task becomes rows of its batches.

    Attributes:
      sample: a row like any other, from which a program's shapes are known without data.
    """

    sample: Any

    def open(self, place: str, image_root: str) -> Sequence[Any]:
        """The rows at a place; `image_root` is "" where the place itself says where images are.

        A row is named in messages by its `uid`, where it has one.
        """

    def __call__(self, row: Any, rng: np.random.Generator) -> Example:
        """One row of a batch: arrays and numbers of the same shapes for every row.

        `truncated` (bool, optional) tells that its text was cut; it is counted, not batched.

        Raises:
          ImageError: its picture cannot be read; the row is left out and counted.
        """


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a picture becomes a training view.

    Attributes:
      image_size: side of the square image, in pixels.
      flip: mirror half of the images, and exchange left and right in their texts.
      randaugment: apply BLIP's RandomAugment(2, 5).
      crop_scale: bounds of the crop's share of the image's area.
      as_released: RandomAugment with Brightness and Sharpness that change nothing, as the
        released code has them.
    """

    image_size: int
    flip: bool
    randaugment: bool
    crop_scale: tuple[float, float] = (0.2, 1.0)
    as_released: bool = False

    def view(
        self, source: Any, rng: np.random.Generator, mirror: bool | None = None
    ) -> tuple[np.ndarray, bool]:
        """uint8 [S, S, 3], and whether it is mirrored: as told, or drawn where nothing is.

        Raises:
          ImageError: it cannot be read.
        """
        image = read_crop(source, self.image_size, rng, self.crop_scale)
        if mirror is None:
            image, mirror = random_flip(image, rng) if self.flip else (image, False)
        elif mirror:
            image = ImageOps.mirror(image)
        if self.randaugment:
            image = RandomAugment(as_released=self.as_released)(image, rng)
        return to_array(image), mirror


@dataclass(frozen=True, kw_only=True)
class ImageTextOptions(ViewOptions):
    """How a record becomes a row of a batch.

    Attributes:
      max_tokens: token length T of every text, special tokens included.
      prompt: put before the cleaned caption, as it is.
      synthetic_share: probability of a synthetic text for a record that has web texts too; by
        default every text is as likely.
      text_noise: words dropped, swapped and masked in the cleaned caption.
    """

    max_tokens: int
    prompt: str = ""
    synthetic_share: float | None = None
    text_noise: TextNoise | None = None


class ImageText:
    """Records as rows of image and text.

    An example holds image uint8 [S, S, 3]; input_ids and attention_mask int32 [T]; image_index,
    not negative, equal for rows of one image_id; and prompt_length, the tokens before the caption,
    the first token included.

    Raises:
      ValueError: a prompt that leaves no room.
    """

    sample = Record("sample", BLACK, ("a",), "sample")

    def __init__(self, tokenizer: Tokenizer, options: ImageTextOptions):
        self.tokenizer, self.options = tokenizer, options
        # The prompt's tokens with the first one; [SEP], which `count` includes, comes later.
        self.prompt_length = tokenizer.count([options.prompt])[0] - 1
        if self.prompt_length >= options.max_tokens:
            raise ValueError(
                f"The prompt takes {self.prompt_length} of max_tokens {options.max_tokens}, "
                "which leaves no room for a caption."
            )

    def open(self, place: str, image_root: str) -> Sequence[Record]:
        """As `open_records`."""
        return open_records(place, image_root)

    def __call__(self, row: Record, rng: np.random.Generator) -> Example:
        """One of the record's texts, drawn each time it comes up, and a view of its image."""
        options = self.options
        text = draw_text(row, options.synthetic_share, rng)
        image, mirrored = options.view(row.image, rng)
        text = pre_caption(swap_left_right(text) if mirrored else text)
        if options.text_noise is not None:
            text = options.text_noise(text, rng)
        ids, mask, truncated = tokens(self.tokenizer, options.prompt + text, options.max_tokens)
        return {
            "image": image,
            "input_ids": ids,
            "attention_mask": mask,
            "image_index": np.int32(hashed(row.image_id) & 0x7FFFFFFF),
            "prompt_length": np.int32(self.prompt_length),
            TRUNCATED: truncated,
        }


def open_records(place: str, image_root: str) -> Sequence[Record]:
    """Records with random access: ArrayRecord files, or one of BLIP's JSON lists.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: another format, which `blip-jax data convert` carries over.
    """
    if place.endswith(".json"):
        return read_json(place, image_root or None)
    files = storage.find(place)
    if any(name.endswith("/conversion.json") for name in files) and not any(
        name.endswith("/manifest.json") for name in files
    ):
        raise ValueError(f"{place}: `blip-jax data convert` did not come to its end there")
    if found := storage.with_suffix(files, *SUFFIXES):
        return ArrayRecords(found)
    raise ValueError(
        f"{place}: expected a .json list, or a folder or pattern of ArrayRecord files; "
        "`blip-jax data convert` makes them of other data"
    )


def tokens(
    tokenizer: Tokenizer, text: str, max_tokens: int, first: str = "[CLS]"
) -> tuple[np.ndarray, np.ndarray, bool]:
    """A text as ids and mask, int32 [max_tokens], and whether it had to be cut."""
    ids, mask = tokenizer.encode([text], max_length=max_tokens, first=first)
    return ids[0], mask[0], bool(mask[0, -1]) and tokenizer.count([text])[0] > max_tokens


def hashed(name: str) -> int:
    """32 bits, the same on every host and in every run."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")


class Skips:
    """What the pipeline could not use whole: `counts` by reason, each record once.

    Reasons are unreadable_image and truncated_text. Safe to share between threads; a copy in
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


class Examples:
    """Row and random generator -> example, or None where its picture cannot be read.

    To what the reader gives comes uid_hash, uint32.

    Raises:
      ValueError: on a call, once more than half of the images could not be read, of those of an
        epoch or of a thousand.
    """

    def __init__(self, reader: Reader, skips: Skips, total: int):
        self.reader, self.skips = reader, skips
        self.enough = min(total, 1000)  # rows that tell how it stands
        self.tried = self.failed = 0

    def __call__(self, row: Any, rng: np.random.Generator) -> Example | None:
        self.tried += 1
        uid = getattr(row, "uid", None) or str(row)
        try:
            example = self.reader(row, rng)
        except ImageError as error:
            self._count(uid, error)
            return None
        if example.pop(TRUNCATED, False):
            self.skips.add("truncated_text", uid)
        return example | {"uid_hash": np.uint32(hashed(uid))}

    def _count(self, uid: str, error: ImageError) -> None:
        if self.skips.add("unreadable_image", uid):
            log.warning("%s skipped: %s", uid, error)
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
