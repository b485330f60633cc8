"""(image, text) pairs laid out for ITM: texts of one image side by side, of like length.

Of what ITM costs, most are the keys and values of an image's tokens, in every layer. They are
the same for all of its texts, so a row of the layout is one image and several of its texts.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from blip_jax.inference.batching import TEXT_STEP, power_of_two

MOST_TEXTS = 32  # a row
NONE = -1  # the number of no pair: what fills a batch up


@dataclasses.dataclass(frozen=True)
class Layout:
    """What every batch of a job keeps to, so that it compiles a handful of programs.

    Attributes:
      pairs: int [P, 2], numbers of image and text, sorted by image.
      length: int [P], tokens of the pair's text, rounded up to a multiple of `TEXT_STEP`.
      texts_a_row: length -> texts that stand side by side.
    """

    pairs: np.ndarray
    length: np.ndarray
    texts_a_row: dict[int, int]

    @classmethod
    def of(cls, pairs: np.ndarray, mask: np.ndarray) -> "Layout":
        """The layout of pairs whose texts have `mask` int [M, T]."""
        rounded = -(-mask.sum(1) // TEXT_STEP) * TEXT_STEP
        length = np.minimum(rounded, mask.shape[1])[pairs[:, 1]]
        texts_a_row = {}
        for value in np.unique(length):
            counts = np.unique(pairs[length == value, 0], return_counts=True)[1]
            # About half of what an image has: the last row of each is half empty in the mean.
            half = max(int(counts.mean() / 2), 1)
            texts_a_row[int(value)] = min(1 << (half.bit_length() - 1), MOST_TEXTS)
        return cls(pairs, length, texts_a_row)

    def batches(
        self, first: int, images: int, shares: int, most: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Batches of all pairs of a block of images.

        Args:
          first: number of the block's first image.
          images: images of a device.
          shares: devices; each holds the next `images` of the block.
          most: pairs a device is given at once, about.

        Yields:
          The length of the texts; the image of every row, counted within its device, [D * R] of
          D devices; the numbers of its pairs [D * R, G], `NONE` where it is not full.
        """
        start, end = np.searchsorted(self.pairs[:, 0], (first, first + shares * images))
        owner, length = self.pairs[start:end, 0] - first, self.length[start:end]
        for value, width in self.texts_a_row.items():
            inside = np.flatnonzero(length == value)
            places = side_by_side(owner[inside], width)
            image = owner[inside[places[:, 0]]]
            rows = np.where(places == NONE, NONE, start + inside[places])
            for local, numbers in dealt(image, rows, images, shares, max(most // width, 1)):
                yield value, local, numbers


def side_by_side(owner: np.ndarray, width: int) -> np.ndarray:
    """Sorted owners [P] -> places of pairs, [R, width], a row of one owner; `NONE` fills it."""
    if not len(owner):
        return np.empty((0, width), int)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    counts = np.diff(np.r_[starts, len(owner)])
    rows = -(-counts // width)  # of each owner
    number = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)  # within its owner
    offset = number[:, None] * width + np.arange(width)
    found = np.repeat(starts, rows)[:, None] + offset
    return np.where(offset < np.repeat(counts, rows)[:, None], found, NONE)


def dealt(
    image: np.ndarray, rows: np.ndarray, images: int, shares: int, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of pairs [R, G] of `image` [R] to the devices that hold it, at most `most` at once.

    Yields what `Layout.batches` does.
    """
    own = [np.flatnonzero(image // images == share) for share in range(shares)]
    longest = max(len(mine) for mine in own)
    for start in range(0, longest, most):
        size = power_of_two(min(most, longest - start), most)
        numbers = np.full((shares, size, rows.shape[1]), NONE)
        local = np.zeros((shares, size), int)
        for share, mine in enumerate(own):
            part = mine[start : start + most]
            numbers[share, : len(part)] = rows[part]
            local[share, : len(part)] = image[part] % images
        yield local.reshape(-1), numbers.reshape(-1, rows.shape[1])
