"""Opening images safely, and the square uint8 arrays that models take."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from blip_jax.data import storage

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 40_000_000

Shrink = Callable[[tuple[int, int]], tuple[int, int]]


class ImageError(ValueError):
    """An image that cannot be used; the message names it and says why."""


def open_image(
    source: str | Path | bytes | Image.Image | np.ndarray, shrink: Shrink | None = None
) -> Image.Image:
    """The first frame of a JPEG, PNG or WebP, a PIL image or a uint8 array, as PIL RGB.

    Arrays are [H, W] or [H, W, 3]. As in BLIP, alpha is dropped and EXIF rotation is not
    applied. The size is checked before any pixel is decoded. `shrink` maps the size (width,
    height) of an encoded image to the least that will do; a JPEG then comes in the smallest of
    its whole, half, quarter and eighth that has it.

    Raises:
      ImageError: missing, of another format, damaged, truncated, or over 40 megapixels.
    """
    if isinstance(source, Image.Image):
        image = _decode(source, "The given image")
        return image.copy() if image is source else image
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "The given bytes", shrink)
    return _read(_fetch(source), str(source), shrink)


def image_form(content: bytes) -> str:
    """jpg, png or webp, by the first bytes of an encoded image.

    Raises:
      ImageError: none of these.
    """
    if content.startswith(b"\xff\xd8"):
        return "jpg"
    if content.startswith(b"\x89PNG"):
        return "png"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    raise ImageError("The given bytes are no JPEG, PNG or WebP image.")


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Bicubic squash to size x size, without a crop (BLIP's test transform)."""
    return image.resize((size, size), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3] of an RGB image."""
    return np.asarray(image, np.uint8)


def _fetch(source: str | Path) -> BinaryIO:
    """The file's bytes, whole."""
    try:
        with storage.open_binary(source) as file:
            return io.BytesIO(file.read())
    except (OSError, EOFError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"{source} cannot be opened: {why}.") from error


def _read(file: BinaryIO, name: str, shrink: Shrink | None) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS} pixels.") from error
    except Exception as error:  # damaged headers raise errors of many kinds
        raise ImageError(f"{name} is not a readable JPEG, PNG or WebP image.") from error
    return _decode(image, name, shrink)


def _decode(image: Image.Image, name: str, shrink: Shrink | None = None) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width}x{height} pixels, more than {MAX_PIXELS}.")
    if width * height == 0:
        raise ImageError(f"{name} has no pixels.")
    try:
        if shrink is not None and image.size != (least := shrink(image.size)):
            image.draft(None, least)
        image.load()
        if image.mode.startswith("I"):  # 16-bit grey, which convert would clip to white
            image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # decoders raise errors of many kinds on damaged data
        raise ImageError(f"{name} is damaged or truncated ({error}).") from error


def _from_array(array: np.ndarray) -> Image.Image:
    shape_ok = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    if array.dtype != np.uint8 or not shape_ok:
        raise ImageError(
            f"An image array must be uint8 [H, W] or [H, W, 3], "
            f"not {array.dtype} {list(array.shape)}."
        )
    return _decode(Image.fromarray(array), "The given array")
