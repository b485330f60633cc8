"""How fast images become training crops here, and how long a device would wait for them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.data.augment import RandomAugment, random_flip, random_resized_crop
from blip_jax.data.corpus import Corpus
from blip_jax.data.examples import ImageText, ImageTextOptions
from blip_jax.data.mixture import Source
from blip_jax.data.pipeline import train_dataset
from blip_jax.data.record import Record
from blip_jax.tokenizer import Tokenizer

_TURNS = 3  # each way is timed so often, the ways in turn; the fastest counts


def bench(
    records: Sequence[Record],
    *,
    size: int,
    batch_size: int,
    step_time: float,
    workers: int = 0,
) -> dict[str, float]:
    """Measures on this machine, in this process.

    Args:
      records: with images in memory, so that no disk is measured.
      size: pixels of a crop's side.
      batch_size, step_time: images and seconds of one step of the device to feed.
      workers: as of `train_dataset`.

    Returns:
      images_per_second_per_core by our way and by the plain Pillow way, both on one core and of
      its own processor time; images_per_second of the whole pipeline with all it may use; and
      device_wait_share, the part of the time that a device would stand still.

    Raises:
      ValueError: fewer records than a batch.
    """
    options = ImageTextOptions(image_size=size, max_tokens=30, flip=True, randaugment=True)
    ways: dict[str, Callable[[Record, np.random.Generator], object]] = {
        "images_per_second_per_core": lambda r, rng: options.view(r.image, rng),
        "plain_pillow_images_per_second_per_core": lambda r, rng: plain(r, size, rng),
    }
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(_TURNS):
        for name, way in ways.items():
            rng = np.random.default_rng(0)
            start = time.process_time()
            for record in records:
                way(record, rng)
            fastest[name] = min(fastest[name], time.process_time() - start)
    found = {name: len(records) / seconds for name, seconds in fastest.items()}
    return found | _fed(records, options, batch_size, step_time, workers)


def plain(record: Record, size: int, rng: np.random.Generator) -> np.ndarray:
    """The way of the original: decode the whole, crop, mirror, augment, copy."""
    image = Image.open(io.BytesIO(record.image_bytes())).convert("RGB")
    image = random_resized_crop(image, size, rng)
    image, _ = random_flip(image, rng)
    return np.array(RandomAugment()(image, rng))


def photos(corpus: Corpus, count: int) -> list[Record]:
    """The first records of a corpus, their images in memory.

    Raises:
      ValueError: it has none.
    """
    found: list[Record] = []
    for row in corpus.rows():
        if isinstance(row, Record) and len(found) < count:
            texts = (row.captions, row.image_id, row.extra, row.synthetic)
            found.append(Record(row.uid, row.image_bytes(), *texts))
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"{corpus.place} has no usable record.")
    return found


def drawn_photos(count: int) -> list[Record]:
    """500x375 JPEGs (quality 90) with edges and grain, about the bytes of a photo."""
    return [Record(str(i), _jpeg(i % 50), ("a dog on a bench",), str(i)) for i in range(count)]


def _jpeg(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 6, (375, 500, 1))
    file = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _fed(
    records: Sequence[Record],
    options: ImageTextOptions,
    batch_size: int,
    step_time: float,
    workers: int,
) -> dict[str, Any]:
    """The pipeline as it runs: flat out, and before a device that takes `step_time` a batch."""
    tokenizer = Tokenizer.train([records[0].captions[0] if records[0].captions else "a"], 100)
    data = train_dataset(
        [Source(records)],
        ImageText(tokenizer, options),
        batch_size=batch_size,
        seed=0,
        workers=workers,
    )
    stream = iter(data)
    steps = max(len(records) // batch_size, 2)
    next(stream)  # starts threads or processes
    start = time.perf_counter()
    for _ in range(steps):
        next(stream)
    flat_out = time.perf_counter() - start
    waited = 0.0
    for _ in range(steps):
        time.sleep(step_time)
        start = time.perf_counter()
        next(stream)
        waited += time.perf_counter() - start
    if workers:
        stream.close()
    return {
        "images_per_second": steps * batch_size / flat_out,
        "device_wait_share": waited / (waited + steps * step_time),
    }
