"""A folder of images, each with its text in a .txt of the same name (one caption a line)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial

from blip_jax.data import storage
from blip_jax.data.formats.shard import Layout, Shard
from blip_jax.data.record import Record, Skip
from blip_jax.data.rows import with_words

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_IMAGES_A_SHARD = 10_000


def shards(files: Sequence[str], layout: Layout) -> list[Shard]:
    """Shards of 10,000 images, in the order of their names."""
    images = storage.with_suffix(files, *IMAGES)
    beside = {name for name in files if name.endswith((".txt", ".json"))}
    parts = range(0, len(images), _IMAGES_A_SHARD)
    return [
        Shard(f"{number:05d}", layout.root, partial(read, layout, chunk, _sides(chunk, beside)))
        for number, start in enumerate(parts)
        for chunk in [images[start : start + _IMAGES_A_SHARD]]
    ]


def read(layout: Layout, images: Sequence[str], beside: frozenset[str]) -> Iterator[Record | Skip]:
    """Skips: missing_caption, empty_caption, unreadable_text."""
    for image in images:
        base = image.rpartition(".")[0]
        uid = f"{layout.source}/{base.removeprefix(layout.root).lstrip('/')}"
        if base + ".txt" not in beside:
            yield Skip(uid, "missing_caption", f"{image} has no .txt beside it.")
            continue
        try:
            text = _read(base + ".txt").decode("utf-8")
            extra = json.loads(_read(base + ".json")) if base + ".json" in beside else {}
        except (OSError, ValueError, RecursionError) as error:
            detail = f"The text of {image} cannot be read: {error}."
            yield Skip(uid, "unreadable_text", detail)
            continue
        captions = with_words(text.splitlines())
        if not captions:
            yield Skip(uid, "empty_caption", f"{base}.txt has no caption once cleaned.")
            continue
        extra = extra if isinstance(extra, dict) else {}
        place = storage.place(image)
        yield Record(uid, place, captions, str(place), extra, source=layout.source)


def _sides(images: Sequence[str], beside: set[str]) -> frozenset[str]:
    bases = [image.rpartition(".")[0] for image in images]
    return frozenset(b + end for b in bases for end in (".txt", ".json") if b + end in beside)


def _read(place: str) -> bytes:
    with storage.open_binary(place) as file:
        return file.read()
