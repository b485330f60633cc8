"""What is said of scenes, and whether it is true. Grammar and parser share one lexicon."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_jax.data.world.scene import Group, Scene

# Meaning -> the words for it. The first is the name in `Group` and `Scene`.
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}
TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy", "with stripes"),
    "dotted": ("dotted", "spotted", "with dots"),
}
COLOUR_WORDS = {c: (c,) for c in ("red", "green", "blue", "yellow", "purple", "orange", "pink")}
COUNT_WORDS = {1: ("a", "a", "one"), 2: ("two", "a pair of"), 3: ("three", "a trio of")}
BACKGROUND_PHRASES = ("on a {} background", "against {}", "on {}", "over a {} backdrop")
BACKGROUND_NAMES = ("white", "grey", "black", "beige")
# (phrase between A and B, place of A, place of B)
RELATIONS = (
    ("to the left of", "left", "right"),
    ("left of", "left", "right"),
    ("to the right of", "right", "left"),
    ("right of", "right", "left"),
    ("above", "top", "bottom"),
    ("on top of", "top", "bottom"),
    ("below", "bottom", "top"),
    ("under", "bottom", "top"),
    ("beneath", "bottom", "top"),
)
PLACE_PHRASES = {
    "left": ("on the left", "at left", "on its left"),
    "right": ("on the right", "at right", "on its right"),
    "top": ("at the top", "above it"),
    "bottom": ("at the bottom", "below it"),
}
FRAMES = (
    "", "", "", "a drawing of", "a picture of", "an image of", "this shows", "you can see",
    "here is", "we see", "there is",
)  # fmt: skip


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of the scene, lower case, one of many that could be said."""
    groups = list(scene.groups)
    frame = str(rng.choice(FRAMES))
    if len(groups) == 1:
        body = noun_phrase(groups[0], rng)
    else:
        body = pair_phrase(groups, scene.places, rng)
    words = f"{frame} {body}".strip()
    if rng.random() < 0.35:
        background = str(rng.choice(BACKGROUND_PHRASES)).format(scene.background)
        words = f"{background}, {words}" if rng.random() < 0.25 else f"{words} {background}"
    return words


def pair_phrase(
    groups: Sequence[Group], places: Sequence[str | None], rng: np.random.Generator
) -> str:
    """Two groups, mostly with where they are."""
    first = int(rng.integers(2))
    a, b = noun_phrase(groups[first], rng), noun_phrase(groups[1 - first], rng)
    place_a, place_b = places[first], places[1 - first]
    form = rng.random()
    if form < 0.55:
        fit = [phrase for phrase, of_a, _ in RELATIONS if of_a == place_a]
        return f"{a} {rng.choice(fit)} {b}"
    own = {p: [x for x in PLACE_PHRASES[str(p)] if "it" not in x.split()] for p in places}
    own = {p: [x for x in phrases if "its" not in x.split()] for p, phrases in own.items()}
    if form < 0.7:
        return f"{a} {rng.choice(own[place_a])} and {b} {rng.choice(own[place_b])}"
    if form < 0.85:
        relative = [x for x in PLACE_PHRASES[str(place_b)] if {"it", "its"} & set(x.split())]
        return f"{a} with {b} {rng.choice(relative)}"
    return f"{a} and {b}"


def noun_phrase(group: Group, rng: np.random.Generator) -> str:
    """One group: count, then some of its attributes, then its shape."""
    size = rng.choice(SIZE_WORDS[group.size]) if rng.random() < 0.45 else ""
    mention = 0.12 if group.texture == "plain" else 0.6
    texture = str(rng.choice(TEXTURE_WORDS[group.texture])) if rng.random() < mention else ""
    colour = group.colour if rng.random() < 0.95 else ""
    noun = str(rng.choice(SHAPE_WORDS[group.shape]))
    noun = noun if group.count == 1 else PLURALS.get(noun, noun + "s")
    count = str(rng.choice(COUNT_WORDS[group.count]))
    before, after = ("", texture) if texture.startswith("with") else (texture, "")
    words = [w for w in (count, size, before, colour, noun, after) if w]
    text = " ".join(map(str, words))
    return re.sub(r"\ba (?=orange\b)", "an ", text)


def synonyms(table: dict[Any, tuple[str, ...]]) -> dict[str, Any]:
    return {word: meaning for meaning, words in table.items() for word in words}


_SHAPES = synonyms(SHAPE_WORDS)
_PLURAL_SHAPES = {PLURALS.get(word, word + "s"): shape for word, shape in _SHAPES.items()}
_SLOTS: dict[str, tuple[str, Any]] = {
    **{word: ("size", v) for word, v in synonyms(SIZE_WORDS).items()},
    **{word: ("texture", v) for word, v in synonyms(TEXTURE_WORDS).items()},
    **{word: ("colour", v) for word, v in synonyms(COLOUR_WORDS).items()},
    **{word: ("count", v) for word, v in synonyms(COUNT_WORDS).items()},
    "an": ("count", 1),
    "single": ("count", 1),
    **{word: ("place", v) for word, v in synonyms(PLACE_PHRASES).items()},
    **{
        phrase.format(name): ("background", name)
        for phrase in BACKGROUND_PHRASES
        for name in BACKGROUND_NAMES
    },
}
_CONNECTORS = {phrase: (a, b) for phrase, a, b in RELATIONS} | {
    "and": (None, None),
    "with": (None, None),
    ",": (None, None),
}
_TERMS = sorted(
    {*_SLOTS, *_CONNECTORS, *_SHAPES, *_PLURAL_SHAPES, *(f for f in FRAMES if f)},
    key=len,
    reverse=True,
)
_LEXER = re.compile(r"\s*(?:(" + "|".join(map(re.escape, _TERMS)) + r")(?!\w)|(\S+))")

Claims = dict[str, Any]


def is_true(caption: str, scene: Scene) -> bool | None:
    """Whether every claim of a caption holds for the scene.

    Returns:
      True if at least one object is described and all that is said is right; False if something
      is wrong; None if the text does not parse as a description: other words, broken grammar,
      cut short. None is not true either.
    """
    claims = parse(caption)
    if claims is None:
        return None
    background, objects = claims
    if background not in (None, scene.background):
        return False
    described = [(g, p) for g, p in zip(scene.groups, scene.places, strict=True)]
    return any(
        all(holds(claim, *known) for claim, known in zip(objects, order, strict=True))
        for order in itertools.permutations(described, len(objects))
    )


def holds(claim: Claims, group: Group, place: str | None) -> bool:
    """Whether one group is as claimed."""
    facts = {**vars(group), "place": place, "plural": group.count > 1}
    return all(facts[slot] == value for slot, value in claim.items())


def parse(caption: str) -> tuple[str | None, list[Claims]] | None:
    """The background and the claims about each object; None if it is no description."""
    background: str | None = None
    objects: list[Claims] = []
    current: Claims = {}
    pending: str | None = None  # place that the last connector gives the next object
    open_end = False  # a connector waits for its second half
    for term, other in _LEXER.findall(caption.strip()):
        if other:
            return None
        if term in _CONNECTORS:
            of_previous, of_next = _CONNECTORS[term]
            if term == "," and not current:
                continue
            if not close(current, objects, of_previous):
                return None
            current, pending, open_end = {}, of_next, True
        elif term in _SHAPES or term in _PLURAL_SHAPES:
            if "shape" in current:
                return None
            plural = term in _PLURAL_SHAPES
            current["shape"] = _PLURAL_SHAPES[term] if plural else _SHAPES[term]
            current["plural"] = plural
            if pending:
                current["place"] = pending
            pending, open_end = None, False
        elif term in FRAMES:
            if current or objects:
                return None
        else:
            slot, value = _SLOTS[term]
            if slot == "background":
                if background not in (None, value):
                    return None
                background = value
            elif slot in current and current[slot] != value:
                return None
            else:
                current[slot] = value
    if open_end or (current and not close(current, objects, None)) or not 1 <= len(objects) <= 2:
        return None
    return background, objects


def close(current: Claims, objects: list[Claims], place: str | None) -> bool:
    """Finishes an object; False if it names no shape or is put in two places."""
    if "shape" not in current or (place and current.get("place", place) != place):
        return False
    if place:
        current["place"] = place
    objects.append(current)
    return True
