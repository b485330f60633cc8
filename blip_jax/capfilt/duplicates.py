"""Images that are there twice: by their bytes, and nearly, by the filter's embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from blip_jax.capfilt.language import wilson
from blip_jax.capfilt.scored import ScoredRun

NEAR = 0.97  # cosine of two ITC embeddings
COMPARISONS = 10**9  # at most; 31,000 images with each other, or 1,000 with a million
_BLOCK, _ASKED = 8192, 2048  # rows of a block of comparisons
PAIRS = 6


@dataclasses.dataclass(frozen=True)
class Near:
    """How many of `asked` images have another one nearly like them.

    Attributes:
      total: images that they were compared with.
      share, low, high: of the asked, and its 95 % Wilson interval.
      pairs: (row, row, cosine) of the nearest, row numbers counted over all shards.
    """

    asked: int
    total: int
    share: float
    low: float
    high: float
    pairs: list[tuple[int, int, float]]


def same_bytes(content: np.ndarray) -> dict[str, Any]:
    """Images whose bytes an image before them has; `content` uint64 [R] as of `Texts`."""
    known = content[content != 0]
    different = len(np.unique(known))
    return {"images": len(known), "copies": len(known) - different}


def near_duplicates(
    run: ScoredRun, comparisons: int = COMPARISONS, near: float = NEAR
) -> Near | None:
    """Compares a sample of images with all images, block by block; None without embeddings.

    The sample is as large as `comparisons` allows, drawn evenly; with few images it is all.

    Raises:
      ValueError: a damaged file of embeddings.
    """
    total = sum(int(marker["rows"]) for marker in run.markers)
    step = max(1, -(-total * total // comparisons))
    parts = [vectors[-start % step :: step].copy() for start, vectors in blocks(run)]
    if not parts:
        return None
    asked = unit(np.concatenate(parts))
    numbers = np.arange(0, total, step)[: len(asked)]
    best, where = np.full(len(asked), -1.0, np.float32), np.zeros(len(asked), np.int64)
    for start, block in blocks(run):
        vectors = unit(block)
        for first in range(0, len(asked), _ASKED):
            part = slice(first, first + _ASKED)
            cosine = asked[part] @ vectors.T
            own = numbers[part] - start
            inside = np.flatnonzero((own >= 0) & (own < len(vectors)))
            cosine[inside, own[inside]] = -1
            top = cosine.argmax(1)
            value = cosine[np.arange(len(top)), top]
            better = value > best[part]
            best[part] = np.where(better, value, best[part])
            where[part] = np.where(better, top + start, where[part])
    usable = asked.any(1)  # rows without an image have no direction
    found = usable & (best >= near)
    low, high = wilson(int(found.sum()), int(usable.sum()))
    share = float(found.sum() / max(usable.sum(), 1))
    pairs = nearest_pairs(numbers[found], where[found], best[found])
    return Near(int(usable.sum()), total, share, low, high, pairs)


def blocks(run: ScoredRun) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, embeddings float16 [n, E]) of all embeddings, in order.

    Stops at a shard that has none.
    """
    start = 0
    for name, marker in zip(run.names, run.markers, strict=True):
        vectors = run.embeddings(name)
        if vectors is None:
            return
        if vectors.ndim != 2 or len(vectors) != marker["rows"]:
            place = run.file("embeddings", f"{name}.npy")
            raise ValueError(f"{place} is of shape {vectors.shape}, not {marker['rows']} rows.")
        for first in range(0, len(vectors), _BLOCK):
            yield start + first, vectors[first : first + _BLOCK]
        start += len(vectors)


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, E] of length 1; zeros where there is no direction."""
    vectors = np.nan_to_num(vectors.astype(np.float32))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def nearest_pairs(
    one: np.ndarray, other: np.ndarray, cosine: np.ndarray
) -> list[tuple[int, int, float]]:
    """The few nearest pairs, each once."""
    found: dict[tuple[int, int], float] = {}
    for i in np.argsort(-cosine, kind="stable"):
        pair = (min(int(one[i]), int(other[i])), max(int(one[i]), int(other[i])))
        found.setdefault(pair, float(cosine[i]))
        if len(found) == PAIRS:
            break
    return [(a, b, value) for (a, b), value in found.items()]
