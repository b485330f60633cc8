"""BLIP's training augmentation: random resized crop, mirror, RandomAugment. Pillow only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from blip_jax.data.images import open_image

FILL = (128, 128, 128)
_CROP_ATTEMPTS = 10
_DRAFT_PIXELS = 2  # a draft has at least so many pixels for one of the crop's, along a side


def random_resized_crop(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """A random part of the image, bicubic, size x size (torchvision's RandomResizedCrop).

    `scale` bounds the part's share of the area, `ratio` its width over height.
    """
    box = _crop_box(image.size, rng, scale, ratio)
    # Crop first: resize(box=...) would let the filter see pixels beyond the box.
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def read_crop(
    source: Path | str | bytes,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Image.Image:
    """`random_resized_crop` of an encoded image, of which no more is decoded than it needs.

    The same part for the same generator. A JPEG so large that its half, quarter or eighth still
    has twice the crop's pixels along both sides is decoded at that size.

    Raises:
      ImageError: as `open_image`.
    """
    drawn: list[tuple[tuple[int, int], tuple[int, int, int, int]]] = []

    def shrink(full: tuple[int, int]) -> tuple[int, int]:
        box = _crop_box(full, rng, scale, ratio)
        drawn.append((full, box))
        shrunk = min(box[2] - box[0], box[3] - box[1]) / (_DRAFT_PIXELS * size)
        return round(full[0] / max(shrunk, 1)), round(full[1] / max(shrunk, 1))

    image = open_image(source, shrink)
    (width, height), box = drawn[0]
    if image.size != (width, height):
        across, down = image.width / width, image.height / height
        box = (
            math.floor(box[0] * across),
            math.floor(box[1] * down),
            math.ceil(box[2] * across),
            math.ceil(box[3] * down),
        )
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def random_flip(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, bool]:
    """Mirrors the image with probability one half; also says whether it did."""
    if rng.random() < 0.5:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True
    return image, False


@dataclass(frozen=True)
class RandomAugment:
    """Draws `count` operations with replacement, applies each with `probability`.

    Operations and strengths are those of BLIP's transform/randaugment.py and
    data/__init__.py; at magnitude 5 of 10: rotate 15 degrees, shear 0.15, translate 5 pixels,
    either way, with borders of grey 128.

    Attributes:
      count: operations drawn for an image (N).
      magnitude: strength from 0 to 10 (M).
      as_released: the released code's formula gives Brightness and Sharpness the factor
        exactly 1 at magnitude 5, which changes nothing; True keeps that formula. Otherwise
        the factor is 1 + 0.9 * magnitude / 10 or 1 - 0.9 * magnitude / 10.
    """

    count: int = 2
    magnitude: float = 5
    probability: float = 0.5
    as_released: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """An RGB image of the same size."""
        for index in rng.integers(len(OPERATIONS), size=self.count):
            if rng.random() <= self.probability:
                operation, strength = list(OPERATIONS.values())[index]
                image = operation(image, strength(self, rng))
        return image

    def signed(self, largest: float, rng: np.random.Generator) -> float:
        """`largest` scaled by the magnitude, of random sign."""
        value = largest * self.magnitude / 10
        return -value if rng.random() > 0.5 else value

    def factor(self, rng: np.random.Generator) -> float:
        """Enhancement factor; 1 leaves the image as it is."""
        if self.as_released:
            return self.magnitude / 10 * 1.8 + 0.1
        return 1 + self.signed(0.9, rng)


@dataclass(frozen=True)
class TextNoise:
    """Noise on a caption's words, as an augmentation; each word meets one kind at most.

    Attributes:
      drop: share of words left out; one always stays.
      swap: share of words that change places with the next.
      mask: share of words that become [MASK].
    """

    drop: float = 0.0
    swap: float = 0.0
    mask: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.drop, self.swap, self.mask)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"drop, swap and mask must be shares of at most 1 in all: {shares}.")

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """The text with noise; [MASK] is the tokenizer's mask."""
        words = text.split(" ")
        chances = rng.random(len(words))
        swapped = self.drop + self.swap
        kept: list[str] = []
        held: str | None = None  # waits for the next word to pass it
        for word, chance in zip(words, chances, strict=True):
            if chance < self.drop:
                continue
            if chance < swapped and held is None:
                held = word
                continue
            kept.append("[MASK]" if swapped <= chance < swapped + self.mask else word)
            if held is not None:
                kept, held = [*kept, held], None
        kept += [held] if held is not None else []
        return " ".join(kept) or words[int(rng.integers(len(words)))]


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


# OpenCV, which the original used, counts from a pixel's centre, Pillow from its corner: hence
# the halves below.


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    center = (image.width / 2 + 0.5, image.height / 2 + 0.5)
    return image.rotate(degrees, Image.Resampling.BILINEAR, center=center, fillcolor=FILL)


def _shear_x(image: Image.Image, factor: float) -> Image.Image:
    return _affine(image, (1, -factor, factor / 2, 0, 1, 0))


def _shear_y(image: Image.Image, factor: float) -> Image.Image:
    return _affine(image, (1, 0, 0, -factor, 1, factor / 2))


def _translate(image: Image.Image, right: float, down: float) -> Image.Image:
    if right != int(right) or down != int(down):
        return _affine(image, (1, 0, -right, 0, 1, -down))
    moved = Image.new("RGB", image.size, FILL)  # whole pixels need no filter
    moved.paste(image, (int(right), int(down)))
    return moved


_Strength = Callable[[RandomAugment, np.random.Generator], float | None]
_Operation = Callable[[Image.Image, float], Image.Image]


def _up_to(largest: float) -> _Strength:
    return lambda augment, rng: augment.signed(largest, rng)


def _no_strength(augment: RandomAugment, rng: np.random.Generator) -> None:
    return None


OPERATIONS: dict[str, tuple[_Operation, _Strength]] = {
    "Identity": (lambda image, _: image, _no_strength),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), _no_strength),
    "Brightness": (
        lambda image, f: ImageEnhance.Brightness(image).enhance(f),
        RandomAugment.factor,
    ),
    "Sharpness": (lambda image, f: ImageEnhance.Sharpness(image).enhance(f), RandomAugment.factor),
    "Equalize": (lambda image, _: ImageOps.equalize(image), _no_strength),
    "ShearX": (_shear_x, _up_to(0.3)),
    "ShearY": (_shear_y, _up_to(0.3)),
    "TranslateX": (lambda image, d: _translate(image, -d, 0), _up_to(10)),
    "TranslateY": (lambda image, d: _translate(image, 0, -d), _up_to(10)),
    "Rotate": (_rotate, _up_to(30)),
}


def _crop_box(
    image_size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """left, top, right, bottom in pixels, always inside the image."""
    width, height = image_size
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # No part of that shape fits: the largest central part within the ratios.
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    w, h = max(w, 1), max(h, 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
