"""Image processing beside its definitions, and beside transformers' Pillow processor."""

import io

import numpy as np
import pytest
from corpora import jpeg
from PIL import Image

from blip_jax.data import augment, images
from blip_jax.data.bench import bench, drawn_photos, plain
from blip_jax.data.record import Record
from blip_jax.models.blip import PIXEL_MEAN, PIXEL_STD


def photo(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Smooth colours, so that interpolation is near exact, with no level at the ends."""
    return images.open_image(jpeg(seed, *size)).point(lambda v: v * 3 // 4 + 20)


def warp(array: np.ndarray, source) -> np.ndarray:
    """Bilinear at `source(x, y)`, pixel centres at whole numbers, 128 outside (as OpenCV)."""
    height, width, _ = array.shape
    y, x = np.mgrid[:height, :width].astype(float)
    xs, ys = source(x, y)
    padded = np.pad(array.astype(float), ((1, 1), (1, 1), (0, 0)), constant_values=128)
    xs, ys = np.clip(xs + 1, 0, width + 1 - 1e-9), np.clip(ys + 1, 0, height + 1 - 1e-9)
    left, top = xs.astype(int), ys.astype(int)
    fx, fy = (xs - left)[..., None], (ys - top)[..., None]
    rows = [padded[top + d, left] * (1 - fx) + padded[top + d, left + 1] * fx for d in (0, 1)]
    return rows[0] * (1 - fy) + rows[1] * fy


def inside(source, size: tuple[int, int]) -> np.ndarray:
    """Where the source lies within the image, a pixel from its border."""
    y, x = np.mgrid[: size[1], : size[0]].astype(float)
    xs, ys = source(x, y)
    return (xs >= 1) & (xs <= size[0] - 2) & (ys >= 1) & (ys <= size[1] - 2)


def turned(degrees: float, width: int, height: int):
    """The inverse of cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)."""
    a, b = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    cx, cy = width / 2, height / 2
    return lambda x, y: (a * (x - cx) - b * (y - cy) + cx, b * (x - cx) + a * (y - cy) + cy)


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("ShearX", 0.15, lambda x, y: (x - 0.15 * y, y)),
        ("ShearY", -0.15, lambda x, y: (x, y + 0.15 * x)),
        ("TranslateX", 5, lambda x, y: (x + 5, y)),
        ("TranslateY", -2.5, lambda x, y: (x, y - 2.5)),
        ("Rotate", 15, turned(15, 48, 40)),
    ],
)
def test_geometry_is_that_of_the_original(name, value, source):
    image = photo()
    found = images.to_array(augment.OPERATIONS[name][0](image, value)).astype(float)
    middle = inside(source, image.size)
    expected = warp(images.to_array(image), source)
    assert np.abs(found - expected)[middle].max() < 1.001 and middle.mean() > 0.5
    y, x = np.mgrid[: image.height, : image.width].astype(float)
    xs, ys = source(x, y)
    outside = (xs < -1) | (xs > image.width) | (ys < -1) | (ys > image.height)
    assert (found[outside] == 128).all() and outside.any()


def autocontrast(a: np.ndarray) -> np.ndarray:
    low, high = a.min((0, 1)).astype(float), a.max((0, 1)).astype(float)
    return (a - low) * 255 / (high - low)


def equalize(a: np.ndarray) -> np.ndarray:
    """Per channel, the table of randaugment.py: half a step, then the running sum in steps."""
    out = np.empty_like(a)
    for c in range(3):
        histogram = np.bincount(a[..., c].ravel(), minlength=256)
        filled = histogram[histogram > 0]
        step = filled[:-1].sum() // 255
        before = np.concatenate([[0], np.cumsum(histogram)[:-1]]) + step // 2
        out[..., c] = np.minimum(before // step, 255)[a[..., c]]
    return out


def brightness(a: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(a * factor, 0, 255)


def sharpness(a: np.ndarray, factor: float) -> np.ndarray:
    """Away from a 3x3 mean with a centre of 5 in 13; the border pixels stay."""
    out = a.astype(float)
    total = np.zeros(a[1:-1, 1:-1].shape)
    for dy in range(3):
        for dx in range(3):
            weight = 5 if dx == dy == 1 else 1
            total += weight * out[dy : a.shape[0] - 2 + dy, dx : a.shape[1] - 2 + dx]
    smooth = np.floor(total / 13 + 0.5)
    out[1:-1, 1:-1] = smooth + factor * (out[1:-1, 1:-1] - smooth)
    return np.clip(out, 0, 255)


@pytest.mark.parametrize(
    ("name", "define", "values"),
    [
        ("Identity", lambda a: a, [None]),
        ("AutoContrast", autocontrast, [None]),
        ("Equalize", equalize, [None]),
        ("Brightness", brightness, [0.55, 1.0, 1.45]),
        ("Sharpness", sharpness, [0.55, 1.0, 1.45]),
    ],
)
def test_colour_is_that_of_the_original(name, define, values):
    image = photo(size=(64, 64))
    for value in values:
        found = images.to_array(augment.OPERATIONS[name][0](image, value)).astype(float)
        array = images.to_array(image)
        expected = define(array) if value is None else define(array, value)
        assert np.abs(found - expected).max() <= 1


def test_as_released_brightness_and_sharpness_change_nothing():
    image, rng = photo(), np.random.default_rng(0)
    policy = augment.RandomAugment(as_released=True)
    for name in ("Brightness", "Sharpness"):
        apply, strength = augment.OPERATIONS[name]
        assert apply(image, strength(policy, rng)).tobytes() == image.tobytes()


def test_pixels_are_those_of_transformers_pillow_processor():
    transformers = pytest.importorskip("transformers")
    name = "BlipImageProcessorPil"
    if not hasattr(transformers, name):
        name = "BlipImageProcessor"
    processor = getattr(transformers, name)(size={"height": 64, "width": 64})
    for seed, size in enumerate([(48, 40), (500, 375), (64, 64), (333, 90)]):
        image = images.open_image(jpeg(seed, *size))
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        ours = images.to_array(images.resize_square(image, 64)) / 255
        ours = (ours - PIXEL_MEAN) / PIXEL_STD
        level = 1 / 255 / np.array(PIXEL_STD)
        assert (np.abs(theirs.transpose(1, 2, 0) - ours) <= level + 1e-6).all()


# Decoding no more than is needed


def large() -> bytes:
    image = photo(3, (64, 48)).resize((1600, 1200), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def test_small_images_are_cropped_as_from_the_whole():
    content = jpeg(1, 300, 200)
    for seed in range(20):
        whole = augment.random_resized_crop(
            images.open_image(content), 96, np.random.default_rng(seed)
        )
        drafted = augment.read_crop(content, 96, np.random.default_rng(seed))
        assert drafted.tobytes() == whole.tobytes()


def test_a_large_jpeg_is_decoded_smaller_where_it_cannot_be_seen(monkeypatch):
    content, sizes = large(), []
    crop = Image.Image.crop

    def spy(image, box):
        sizes.append(image.size)
        assert 0 <= box[0] < box[2] <= image.width and 0 <= box[1] < box[3] <= image.height
        return crop(image, box)

    monkeypatch.setattr(Image.Image, "crop", spy)
    for seed in range(20):
        drafted = augment.read_crop(content, 96, np.random.default_rng(seed))
        whole = augment.random_resized_crop(
            images.open_image(content), 96, np.random.default_rng(seed)
        )
        difference = np.abs(images.to_array(drafted).astype(float) - images.to_array(whole))
        assert difference.mean() < 1 and difference.max() < 6
    assert {(1600, 1200), (800, 600), (400, 300)} >= set(sizes) > {(1600, 1200)}


def test_bench_measures_both_ways():
    records = drawn_photos(8)
    assert Image.open(io.BytesIO(records[0].image)).size == (500, 375)
    assert plain(records[0], 32, np.random.default_rng(0)).shape == (32, 32, 3)
    found = bench(records, size=32, batch_size=4, step_time=0.001)
    assert all(value > 0 for value in found.values()) and found["device_wait_share"] < 1
    with pytest.raises(ValueError, match="1 records cannot fill"):
        bench([Record("a", jpeg(), ("a",), "a")], size=8, batch_size=2, step_time=0.1)
