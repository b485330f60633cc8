"""Recall of image-text retrieval (the original's `itm_eval` in `train_retrieval.py`)."""

import numpy as np


def retrieval_recall(scores: np.ndarray, text_image: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10, as fractions.

    Args:
      scores: [images, texts], higher is better.
      text_image: [texts], the image each text belongs to. An image may have several texts: any
        of them counts as found.

    Returns:
      tr_r1, tr_r5, tr_r10 (image to text), ir_r1, ir_r5, ir_r10 (text to image) and r_mean.
    """
    images = np.arange(scores.shape[0])
    own = text_image[None] == images[:, None]
    best_own = np.where(own, scores, -np.inf).max(1)
    right = scores[text_image, np.arange(len(text_image))]
    # An equal score counts against, and so does NaN: a model that scores all alike, or has
    # diverged, has found nothing.
    text_rank = (~(scores < best_own[:, None]) & ~own).sum(1)
    text_rank[~own.any(1)] = np.iinfo(int).max  # an image without texts is never found
    image_rank = (~(scores < right[None]) & ~own).sum(0)
    recall = {
        f"{name}_r{k}": float(np.mean(rank < k))
        for name, rank in (("tr", text_rank), ("ir", image_rank))
        for k in (1, 5, 10)
    }
    return recall | {"r_mean": float(np.mean(list(recall.values())))}
