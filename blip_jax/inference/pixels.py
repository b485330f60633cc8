"""Images and videos as models take them, opened when a batch asks for them."""

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from PIL import Image

from blip_jax.data.images import ImageError, open_image, resize_square
from blip_jax.data.video import VideoLike, read_frames

ImageLike = str | Path | bytes | Image.Image | np.ndarray

THREADS = 8  # that open files


class Pixels:
    """N images that are indexed like uint8 [N, S, S, 3], but held a batch at a time."""

    def __init__(self, images: ImageLike | Sequence[ImageLike], size: int) -> None:
        """Takes paths, bytes, PIL images or uint8 arrays, one or a list; ValueError where none."""
        self.images: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        self.size = size
        if not self.images:
            raise ValueError("no images given")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [B, S, S, 3]. Raises ImageError, which names what cannot be opened."""
        unique, places = np.unique(rows, return_inverse=True)
        opened = self.try_open(unique)
        for found in opened:
            if isinstance(found, ImageError):
                raise found
        return np.stack(opened)[places]  # type: ignore[arg-type]

    def try_open(self, rows: Iterable[int]) -> list[np.ndarray | ImageError]:
        """Each row's image, or why there is none."""

        def one(row: int) -> np.ndarray | ImageError:
            try:
                return self.open(int(row))
            except ImageError as error:
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, rows))

    def open(self, row: int) -> np.ndarray:
        """One image, uint8 [S, S, 3]."""
        return np.asarray(resize_square(open_image(self.images[row]), self.size))

    def only(self, rows: Iterable[int]) -> Self:
        """These rows alone."""
        chosen = copy.copy(self)
        chosen.images = [self.images[row] for row in rows]
        return chosen


class Clips(Pixels):
    """N videos that are indexed like uint8 [N, F, S, S, 3]: F frames of each, uniformly sampled."""

    def __init__(self, videos: Sequence[VideoLike], size: int, num_frames: int) -> None:
        """Takes a list of what `read_frames` takes."""
        super().__init__(list(videos), size)  # type: ignore[arg-type]
        self.num_frames = num_frames

    def open(self, row: int) -> np.ndarray:
        """One video, uint8 [F, S, S, 3]."""
        return read_frames(self.images[row], self.num_frames, self.size)


# Images [N, S, S, 3], videos [N, F, S, S, 3], or the tokens [N, S, W] of either.
Rows = np.ndarray | jax.Array | Pixels
