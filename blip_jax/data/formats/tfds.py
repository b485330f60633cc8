"""TensorFlow Datasets through `tfds.data_source`: ArrayRecord files, read without TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from blip_jax.data.formats.shard import Layout, Shard
from blip_jax.data.record import Record, Skip
from blip_jax.data.rows import Columns, RowReader

PREFIX = "tfds:"
_ROWS_A_SHARD = 10_000


def shards(name: str, layout: Layout) -> list[Shard]:
    """Shards of 10,000 examples of `tfds:NAME[/CONFIG][:VERSION]/SPLIT`; `root` is TFDS's folder.

    The dataset must have been prepared with `file_format="array_record"`.
    """
    count = len(_source(name, layout.image_root))
    stem = name.removeprefix(PREFIX).replace("/", "-").replace(":", "-")
    starts = range(0, count, _ROWS_A_SHARD)
    return [
        Shard(f"{stem}-{number:05d}", name, partial(read, name, layout, start))
        for number, start in enumerate(starts)
    ]


def read(name: str, layout: Layout, start: int) -> Iterator[Record | Skip]:
    """Examples from `start` on, each with the image's bytes as they are stored."""
    source = _source(name, layout.image_root)
    if not start < len(source):
        return
    columns = Columns.find(_plain(source[start]), image=layout.image, caption=layout.caption)
    reader = RowReader(name.removeprefix(PREFIX), "", columns, layout.source)
    for number in range(start, min(start + _ROWS_A_SHARD, len(source))):
        yield reader.read(number, _plain(source[number]))


@functools.lru_cache(1)
def _source(name: str, folder: str | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"{name} needs tensorflow-datasets: pip install 'blip-jax[data]'."
        ) from error
    dataset, slash, split = name.removeprefix(PREFIX).rpartition("/")
    if not slash:
        raise ValueError(f"{name}: expected tfds:NAME/SPLIT.")
    try:
        builder = tfds.builder(dataset, data_dir=folder)
        images = [name for name, feature in builder.info.features.items() if _is_image(feature)]
        encoded = {name: tfds.decode.SkipDecoding() for name in images}
        return builder.as_data_source(split=split, decoders=encoded)
    except Exception as error:  # TFDS has no common class of errors
        raise ValueError(f"{name} cannot be opened by TFDS: {error}") from error


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """Python values: texts decoded, arrays as lists, encoded images as bytes."""
    return {key: _value(value) for key, value in example.items()}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, np.ndarray):
        return _value(value.item()) if value.ndim == 0 else [_value(v) for v in value]
    if isinstance(value, np.generic):
        return _value(value.item())
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value
