"""Ranks of image-text retrieval, and what is made of ranks."""

from collections.abc import Sequence

import numpy as np

Values = Sequence[float] | np.ndarray

NEVER = np.iinfo(np.int64).max  # rank of what is not there


def ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rank, from 0, of each query's best right item: [N].

    An equal score counts against, and so does NaN: a model that scores all alike, or has
    diverged, has found nothing. A query without a right item has `NEVER`.

    Args:
      scores: [N, M], higher is better.
      right: bool [N, M].
    """
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    return np.where(right.any(1), (~(scores < best) & ~right).sum(1), NEVER)


def retrieval_ranks(scores: np.ndarray, text_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`ranks` of each image's best text [images] and of each text's image [texts].

    Args:
      scores: [images, texts], higher is better.
      text_image: [texts], the image each text belongs to. An image may have several texts: any
        of them counts as found. An image without texts is never found (`NEVER`).
    """
    own = text_image[None] == np.arange(scores.shape[0])[:, None]
    return ranks(scores, own), ranks(scores.T, own.T)


def retrieval_recall(scores: np.ndarray, text_image: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10, as fractions (the original's `itm_eval` in `train_retrieval.py`).

    Returns:
      tr_r1, tr_r5, tr_r10 (image to text), ir_r1, ir_r5, ir_r10 (text to image) and r_mean.
    """
    recall = {
        f"{name}_r{k}": float(np.mean(rank < k))
        for name, rank in zip(("tr", "ir"), retrieval_ranks(scores, text_image), strict=True)
        for k in (1, 5, 10)
    }
    return recall | {"r_mean": float(np.mean(list(recall.values())))}


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """1 / (1 + rank) [N]; their mean is the MRR."""
    return 1 / (1.0 + ranks)


def ndcg(scores: Values, relevance: Values) -> float:
    """Normalised discounted cumulative gain as VisDial defines it.

    The gain of the K best-scored candidates, K those of any relevance, over the most there could
    be. Relevance is 0 or more; 0 where nothing is relevant.
    """
    scores, relevance = np.asarray(scores, float), np.asarray(relevance, float)
    top = int((relevance > 0).sum())
    if not top:
        return 0.0
    discount = 1 / np.log2(np.arange(2, top + 2))
    found = relevance[np.argsort(-scores, kind="stable")[:top]]
    return float(found @ discount / (np.sort(relevance)[::-1][:top] @ discount))
