"""Images as models take them, opened when a batch asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.data.images import open_image, resize_square

ImageLike = str | Path | Image.Image | np.ndarray


class Pixels:
    """N images that are indexed like uint8 [N, S, S, 3], but held a batch at a time."""

    def __init__(self, images: ImageLike | Sequence[ImageLike], size: int) -> None:
        """Takes paths, PIL images or uint8 arrays, one or a list; ValueError where none."""
        self.images: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        self.size = size
        if not self.images:
            raise ValueError("no images given")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [B, S, S, 3]. Raises ImageError, which names what cannot be opened."""
        unique, places = np.unique(rows, return_inverse=True)
        return np.stack([self.open(int(row)) for row in unique])[places]

    def open(self, row: int) -> np.ndarray:
        """One image, uint8 [S, S, 3]."""
        return np.asarray(resize_square(open_image(self.images[row]), self.size))


Rows = np.ndarray | Pixels  # images [N, S, S, 3], or their tokens [N, S, W]
