"""What the web says of pictures: mostly something, sometimes the truth."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from blip_jax.data.world.language import describe, is_true
from blip_jax.data.world.scene import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
)

NOISE = {  # kind -> share of the web texts
    "clean": 0.45,
    "swapped": 0.21,  # the caption of another picture
    "filename": 0.08,
    "advert": 0.11,
    "truncated": 0.06,  # cut in the middle
    "attribute": 0.09,  # one thing wrong
}
OFFERS = ("buy now", "best price", "free shipping", "sale ends soon", "order online", "shop today",
          "new in stock", "limited offer", "save 20 percent", "top quality")  # fmt: skip
GOODS = ("on all orders", "for your home", "wall print", "stock photo", "gift idea", "phone case",
         "poster", "royalty free", "high resolution", "click here")  # fmt: skip
DRAWS = 1000  # of which one must be wrong
FILE_STEMS = ("img", "dsc", "photo", "scan", "untitled", "image")
FILE_ENDS = ("jpg", "png", "copy", "final", "edited", "jpeg")

Others = Sequence[Scene]  # what the web shows


def web_caption(scene: Scene, others: Others, rng: np.random.Generator) -> tuple[str, str]:
    """A text as found beside the picture on the web, and its kind, a key of `NOISE`.

    Raises:
      ValueError: all that can be said of `others` is true of the scene too.
    """
    kind = str(rng.choice(list(NOISE), p=list(NOISE.values())))
    return KINDS[kind](scene, others, rng), kind


def clean(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    return describe(scene, rng)


def swapped(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    return untrue(scene, lambda: describe(others[int(rng.integers(len(others)))], rng))


def filename(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    number = int(rng.integers(10, 9999))
    return f"{rng.choice(FILE_STEMS)} {number} {rng.choice(FILE_ENDS)}"


def advert(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    first, second = rng.choice(OFFERS, 2, replace=False)
    return f"{first} {rng.choice(GOODS)} {second}"


def truncated(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    def cut() -> str:
        words = describe(scene, rng).split()
        return " ".join(words[: int(rng.integers(2, max(3, len(words))))])

    return untrue(scene, cut)


def attribute(scene: Scene, others: Others, rng: np.random.Generator) -> str:
    return untrue(scene, lambda: describe(changed(scene, rng), rng))


def untrue(scene: Scene, draw: Callable[[], str]) -> str:
    """Draws until the text is not true of the scene (a short caption may happen to be)."""
    for _ in range(DRAWS):
        if not is_true(text := draw(), scene):
            return text
    raise ValueError(f"{DRAWS} texts in a row were true of a scene: too few others to swap with")


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one fact wrong."""
    slot = str(rng.choice(("shape", "colour", "size", "texture", "count", "background", "place")))
    if slot == "background":
        return dataclasses.replace(scene, background=other_than(scene.background, BACKGROUNDS, rng))
    if slot == "place" and len(scene.groups) == 2:
        return dataclasses.replace(scene, groups=scene.groups[::-1])
    if slot == "count" and len(scene.groups) == 1:
        values: Iterable[Any] = (1, 2, 3)
    else:
        slot = slot if slot in ("shape", "size", "texture") else "colour"
        values = {"shape": SHAPES, "size": SIZES, "texture": TEXTURES, "colour": COLOURS}[slot]
    at = int(rng.integers(len(scene.groups)))
    groups = list(scene.groups)
    value = other_than(getattr(groups[at], slot), values, rng)
    groups[at] = dataclasses.replace(groups[at], **{slot: value})
    return dataclasses.replace(scene, groups=tuple(groups))


def other_than(value: Any, values: Iterable[Any], rng: np.random.Generator) -> Any:
    rest = [v for v in values if v != value]
    return rest[int(rng.integers(len(rest)))]


KINDS: dict[str, Callable[[Scene, Others, np.random.Generator], str]] = {
    "clean": clean,
    "swapped": swapped,
    "filename": filename,
    "advert": advert,
    "truncated": truncated,
    "attribute": attribute,
}
