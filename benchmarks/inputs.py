"""What both sides of `speed.py` read and write, the same in every process."""

import numpy as np

NEW, LENGTH = 20, 30  # tokens written, tokens of a text that is read
TEXTS = 64  # of one picture, or one of each of as many pictures, where a row is ITM alone


def pictures(count: int, side: int) -> np.ndarray:
    """Normalised pixels [N, H, W, 3]."""
    return np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)


def read_texts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks [N, T] of texts that fill their room."""
    ids = np.random.default_rng(1).integers(1000, 30000, (count, LENGTH)).astype(np.int32)
    return ids, np.ones_like(ids)
