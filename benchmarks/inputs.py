"""What `speed.py` and both its sides share: a row's types, and pictures and texts of any size."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

Args = argparse.Namespace
Call = Callable[[], Any]

NEW, LENGTH = 20, 30  # tokens written, tokens of a text that is read
TEXTS = 64  # of one picture, or one of each of as many pictures, where a row is ITM alone


def pictures(count: int, side: int) -> np.ndarray:
    """Normalised pixels [N, H, W, 3]."""
    return np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)


def read_texts(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks [N, T] of texts that fill their room."""
    ids = np.random.default_rng(1).integers(1000, 30000, (count, LENGTH)).astype(np.int32)
    return ids, np.ones_like(ids)
