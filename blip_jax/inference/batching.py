"""Batches of few shapes, so that a loop over anything compiles a handful of programs."""

from collections.abc import Iterator, Sequence

import numpy as np

from blip_jax.tokenizer import Tokenizer

TEXT_STEP = 8  # text lengths are multiples of this


def power_of_two(count: int, most: int) -> int:
    """The smallest power of two that is at least `count`, or `most` if that is less."""
    return min(1 << (count - 1).bit_length(), most)


def batches(total: int, size: int, least: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """Row numbers of batches, and how many of them count.

    All are `size` long but the last, which is filled up to a power of two, at least `least`,
    with its last row.
    """
    for start in range(0, total, size):
        count = min(size, total - start)
        rows = np.arange(start, start + power_of_two(max(count, least), size))
        yield np.minimum(rows, total - 1), count


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    most: int,
    first: str = "[CLS]",
    step: int = TEXT_STEP,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, int32 [B, T]; T holds the longest text, is a multiple of `step` and at
    most `most`."""
    longest = max(tokenizer.count(texts), default=2)
    length = min(-(-longest // step) * step, most)
    return tokenizer.encode(texts, max_length=length, first=first)
