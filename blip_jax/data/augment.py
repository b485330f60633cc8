"""BLIP's training augmentation: random resized crop, mirror, RandomAugment. Pillow only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FILL = (128, 128, 128)
_CROP_ATTEMPTS = 10


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


def _affine(image: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        coefficients,
        resample=Image.Resampling.BILINEAR,
        fillcolor=FILL,
    )


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, resample=Image.Resampling.BILINEAR, fillcolor=FILL)


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
    "ShearX": (lambda image, f: _affine(image, (1, -f, 0, 0, 1, 0)), _up_to(0.3)),
    "ShearY": (lambda image, f: _affine(image, (1, 0, 0, -f, 1, 0)), _up_to(0.3)),
    "TranslateX": (lambda image, d: _affine(image, (1, 0, d, 0, 1, 0)), _up_to(10)),
    "TranslateY": (lambda image, d: _affine(image, (1, 0, 0, 0, 1, d)), _up_to(10)),
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
