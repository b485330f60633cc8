"""Batches of image-text pairs: shuffled and endless for training, in order for evaluation."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import grain
import numpy as np
from PIL import Image

from blip_jax.data.augment import RandomAugment, random_flip, random_resized_crop
from blip_jax.data.images import ImageError, open_image, resize_square, to_array
from blip_jax.data.records import Record, Records
from blip_jax.data.text import pre_caption, swap_left_right
from blip_jax.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# More threads than cores only fight over the interpreter.
THREADS = min(16, os.cpu_count() or 1)
MAX_UNREADABLE = 0.5

Batch = dict[str, np.ndarray]


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
    """

    image_size: int
    max_tokens: int
    flip: bool
    randaugment: bool
    prompt: str = ""
    crop_scale: tuple[float, float] = (0.2, 1.0)


class Skips:
    """What the pipeline could not use whole: `counts` by reason, each record once.

    Reasons are unreadable_image and truncated_caption. Safe to share between threads.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, reason: str, uid: str) -> bool:
        """Counts the record, unless it was; True if it is new."""
        with self._lock:
            if (reason, uid) in self._seen:
                return False
            self._seen.add((reason, uid))
            self.counts[reason] += 1
            return True


@dataclass(frozen=True)
class _Example:
    record: Record
    image: np.ndarray
    text: str


def train_dataset(
    records: Records,
    tokenizer: Tokenizer,
    options: ImageTextOptions,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = THREADS,
    skips: Skips | None = None,
) -> grain.IterDataset:
    """Endless batches of this process's rows, freshly shuffled every epoch.

    The order and the augmentation of the whole stream depend on `seed` alone; process p reads
    its rows p, p + process_count, ... One caption is drawn for a record each time it comes up.
    The iterator's get_state and set_state resume the stream exactly. A record whose image
    cannot be read is left out, counted in `skips` and logged once.

    Args:
      batch_size: rows of the batch over all processes; each gets batch_size / process_count.
      seed: 0 to 2**32 - 1.
      threads: that decode images; 0 decodes in the caller's, fastest for tiny images.

    Returns:
      A dataset of dicts, with B = batch_size / process_count: image uint8 [B, S, S, 3];
      input_ids and attention_mask int32 [B, T]; image_index int32 [B], not negative, equal for
      rows of one image_id; uid_hash uint32 [B]; and prompt_length int32 [B], the tokens before
      the caption, the first token included.

    Raises:
      ValueError: fewer records than batch_size, or batch_size that the processes cannot share;
        while iterating, if more than half of the images cannot be read.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below {process_count}.")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be shared equally by {process_count} processes."
        )
    if len(records) < batch_size:
        raise ValueError(f"{len(records)} records cannot fill one batch of {batch_size}.")
    skips = Skips() if skips is None else skips
    local_size = batch_size // process_count
    reader = partial(_read_train, options=options, skips=skips, broken=set(), total=len(records))
    # Slicing the endless stream, not the records, keeps processes in the same epoch.
    rows = grain.MapDataset.source(records).seed(seed).shuffle().random_map(reader).repeat()
    rows = rows.slice(slice(process_index, None, process_count))
    read_options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, 2 * local_size)
    )
    return rows.to_iter_dataset(read_options).batch(
        local_size, drop_remainder=True, batch_fn=_collator(tokenizer, options, skips)
    )


def image_batches(
    records: Sequence[Record], size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, list[str], list[Record]]]:
    """Every record's image once, in order, squashed to size x size, never augmented.

    Yields:
      Pixels uint8 [B, S, S, 3], of which the last batch repeats its last row to stay B long;
      "ok" or why the image could not be read (it is black then), one for each real row; and the
      record of every row, repeated ones included.
    """
    batch_size = min(batch_size, len(records))
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(records), batch_size):
            chosen = list(records[start : start + batch_size])
            rows = list(pool.map(partial(_read_square, size=size), chosen))
            padding = batch_size - len(rows)
            pixels = [image for image, _ in rows] + [rows[-1][0]] * padding
            yield np.stack(pixels), [s for _, s in rows], chosen + chosen[-1:] * padding


def _read_square(record: Record, size: int) -> tuple[np.ndarray, str]:
    try:
        return to_array(resize_square(open_image(record.image), size)), "ok"
    except ImageError as error:
        log.warning("%s skipped: %s", record.uid, error)
        return np.zeros((size, size, 3), np.uint8), str(error)


def _read_train(
    record: Record,
    rng: np.random.Generator,
    *,
    options: ImageTextOptions,
    skips: Skips,
    broken: set[str],
    total: int,
) -> _Example | None:
    caption = record.captions[int(rng.integers(len(record.captions)))]
    try:
        image = open_image(record.image)
    except ImageError as error:
        _report_unreadable(record, error, skips)
        broken.add(record.uid)
        if len(broken) > MAX_UNREADABLE * total:
            raise ValueError(
                f"More than half of the {total} images cannot be read; last: {error}"
            ) from error
        return None
    image, caption = _augment(image, caption, options, rng)
    return _Example(record, to_array(image), caption)


def _augment(
    image: Image.Image, caption: str, options: ImageTextOptions, rng: np.random.Generator
) -> tuple[Image.Image, str]:
    image = random_resized_crop(image, options.image_size, rng, options.crop_scale)
    if options.flip:
        image, flipped = random_flip(image, rng)
        caption = swap_left_right(caption) if flipped else caption
    if options.randaugment:
        image = RandomAugment()(image, rng)
    return image, caption


def _report_unreadable(record: Record, error: ImageError, skips: Skips) -> None:
    if skips.add("unreadable_image", record.uid):
        log.warning("%s skipped: %s", record.uid, error)


def _collator(
    tokenizer: Tokenizer, options: ImageTextOptions, skips: Skips
) -> Callable[[Sequence[_Example]], Batch]:
    # The prompt's tokens with the first one; [SEP], which `count` includes, comes later.
    prompt_length = tokenizer.count([options.prompt])[0] - 1
    if prompt_length >= options.max_tokens:
        raise ValueError(
            f"The prompt takes {prompt_length} of max_tokens {options.max_tokens}, "
            "which leaves no room for a caption."
        )

    def collate(examples: Sequence[_Example]) -> Batch:
        texts = [options.prompt + pre_caption(example.text) for example in examples]
        ids, mask = tokenizer.encode(texts, max_length=options.max_tokens)
        full = np.flatnonzero(mask[:, -1]).tolist()
        for row, count in zip(full, tokenizer.count([texts[row] for row in full]), strict=False):
            if count > options.max_tokens:
                skips.add("truncated_caption", examples[row].record.uid)
        records = [example.record for example in examples]
        batch = {
            "image": np.stack([example.image for example in examples]),
            "input_ids": ids,
            "attention_mask": mask,
            "image_index": np.array([_hash(r.image_id) & 0x7FFFFFFF for r in records], np.int32),
            "uid_hash": np.array([_hash(r.uid) for r in records], np.uint32),
            "prompt_length": np.full(len(examples), prompt_length, np.int32),
        }
        return batch

    return collate


def _hash(name: str) -> int:
    """32 bits, the same on every host and in every run."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "little")
