"""Ranks of image-text retrieval, and what is made of ranks."""

from collections.abc import Sequence

import numpy as np

Values = Sequence[float] | np.ndarray

NEVER = np.iinfo(np.int64).max  # rank of what is not there


def retrieval_ranks(scores: np.ndarray, text_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank, from 0, of each image's best text [images] and of each text's image [texts].

    An equal score counts against, and so does NaN: a model that scores all alike, or has
    diverged, has found nothing.

    Args:
      scores: [images, texts], higher is better.
      text_image: [texts], the image each text belongs to. An image may have several texts: any
        of them counts as found. An image without texts is never found (`NEVER`).
    """
    images = np.arange(scores.shape[0])
    own = text_image[None] == images[:, None]
    best_own = np.where(own, scores, -np.inf).max(1)
    right = scores[text_image, np.arange(len(text_image))]
    text_rank = (~(scores < best_own[:, None]) & ~own).sum(1)
    text_rank[~own.any(1)] = NEVER
    return text_rank, (~(scores < right[None]) & ~own).sum(0)


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
