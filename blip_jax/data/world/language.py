"""What is said of scenes, and whether it is true. Grammar and parser share one lexicon."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.world.scene import Group, Scene

MAX_WORDS = 14

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
BACKGROUND_NAMES = ("white", "grey", "beige", "brown")
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
    "left": ("on the left", "at left"),
    "right": ("on the right", "at right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
RELATIVE_PHRASES = {  # after "with"
    "left": ("on its left",),
    "right": ("on its right",),
    "top": ("above it",),
    "bottom": ("below it",),
}
FRAMES = (
    "", "", "", "a drawing of", "a picture of", "an image of", "this shows", "you can see",
    "here is", "we see", "there is",
)  # fmt: skip


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of the scene, lower case, one of many, at most `MAX_WORDS` words."""
    while len((caption := any_caption(scene, rng)).split()) > MAX_WORDS:
        pass
    return caption


def any_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of any length."""
    frame = str(rng.choice(FRAMES))
    if len(scene.groups) == 1:
        body = noun_phrase(scene.groups[0], rng)
    else:
        body = pair_phrase(scene.groups, scene.places, rng)
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
    if form < 0.7:
        own_a, own_b = (rng.choice(PLACE_PHRASES[str(place)]) for place in (place_a, place_b))
        return f"{a} {own_a} and {b} {own_b}"
    if form < 0.85:
        return f"{a} with {b} {rng.choice(RELATIVE_PHRASES[str(place_b)])}"
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


# Within the words about one object ranks rise; modifiers alone come in any order.
_START, _OPENING, _FRAME, _COUNT, _MODIFIER, _NOUN, _ADDITION, _PLACE, _BACKGROUND = range(9)

Claims = dict[str, Any]


def terms(table: Mapping[Any, tuple[str, ...]], rank: int, slot: str) -> dict[str, Any]:
    """Words of a table -> (rank, slot, meaning)."""
    return {word: (rank, slot, meaning) for meaning, words in table.items() for word in words}


_SINGULARS = terms(SHAPE_WORDS, _NOUN, "shape")
_PLURALS = {PLURALS.get(word, word + "s"): term for word, term in _SINGULARS.items()}
_TEXTURES = {
    word: (_ADDITION if word.startswith("with") else rank, slot, meaning)
    for word, (rank, slot, meaning) in terms(TEXTURE_WORDS, _MODIFIER, "texture").items()
}
_RELATIVES = terms(RELATIVE_PHRASES, _PLACE, "place")
_BACKGROUNDS = {
    name: tuple(phrase.format(name) for phrase in BACKGROUND_PHRASES) for name in BACKGROUND_NAMES
}
_TERMS: dict[str, tuple[int, str, Any]] = {
    **terms({None: tuple(frame for frame in FRAMES if frame)}, _FRAME, "frame"),
    **terms(COUNT_WORDS, _COUNT, "count"),
    "an": (_COUNT, "count", 1),
    **terms(SIZE_WORDS, _MODIFIER, "size"),
    **terms(COLOUR_WORDS, _MODIFIER, "colour"),
    **_TEXTURES,
    **_SINGULARS,
    **_PLURALS,
    **terms(PLACE_PHRASES, _PLACE, "place"),
    **_RELATIVES,
    **terms(_BACKGROUNDS, _BACKGROUND, "background"),
}
_CONNECTORS: dict[str, tuple[str | None, str | None]] = {
    **{phrase: (a, b) for phrase, a, b in RELATIONS},
    **dict.fromkeys(("and", "with", ","), (None, None)),
}
_LONGEST_FIRST = sorted({*_TERMS, *_CONNECTORS}, key=len, reverse=True)
_LEXER = re.compile(r"\s*(?:(" + "|".join(map(re.escape, _LONGEST_FIRST)) + r")(?!\w)|(\S+))")


def is_true(caption: str, scene: Scene) -> bool | None:
    """Whether every claim of a caption holds for the scene.

    Returns:
      True if at least one object is described and all that is said is right; False if something
      is wrong; None if the text does not parse as a description: other words, broken grammar,
      cut short. None is not true either.
    """
    description = parse(caption)
    if description is None:
        return None
    background, objects = description
    if background not in (None, scene.background):
        return False
    described = list(zip(scene.groups, scene.places, strict=True))
    return any(
        all(holds(claims, *known) for claims, known in zip(objects, order, strict=True))
        for order in itertools.permutations(described, len(objects))
    )


def holds(claims: Claims, group: Group, place: str | None) -> bool:
    """Whether one group is as claimed."""
    facts = {**vars(group), "place": place, "plural": group.count > 1}
    return all(facts[slot] == value for slot, value in claims.items())


def parse(caption: str) -> tuple[str | None, list[Claims]] | None:
    """The background and the claims about each object; None if it is no description."""
    reader = Reader()
    for term, other in _LEXER.findall(caption.lower().strip()):
        if other or not reader.take(term):
            return None
    if not reader.close(None) or len(reader.objects) > 2:
        return None
    return reader.background, reader.objects


class Reader:
    """Takes the terms of a caption one by one; each step says whether it may stand there."""

    def __init__(self) -> None:
        self.background: str | None = None
        self.objects: list[Claims] = []
        self._claims: Claims = {}  # about the object being read
        self._rank = _START
        self._connector = ""  # before that object
        self._place: str | None = None  # that the connector gives it

    def take(self, term: str) -> bool:
        """Reads one term."""
        if term in _CONNECTORS:
            return (term == "," and self._rank == _OPENING) or self._connect(term)
        rank, slot, value = _TERMS[term]
        if slot == "background" and not self._claims:
            rank = _OPENING
        if rank < self._rank or (rank == self._rank and rank != _MODIFIER):
            return False
        if rank > _NOUN and "shape" not in self._claims:
            return False
        self._rank = rank
        if slot == "background":
            fresh, self.background = self.background is None, value
            return fresh
        return slot == "frame" or self._claim(term, slot, value)

    def close(self, place: str | None) -> bool:
        """Finishes an object; False if it names no shape or is put in two places."""
        if "shape" not in self._claims:
            return False
        if place and self._claims.setdefault("place", place) != place:
            return False
        self.objects.append(self._claims)
        return True

    def _connect(self, connector: str) -> bool:
        of_previous, self._place = _CONNECTORS[connector]
        closed = self.close(of_previous)
        self._claims, self._rank, self._connector = {}, _FRAME, connector
        return closed

    def _claim(self, term: str, slot: str, value: Any) -> bool:
        if term in _RELATIVES and self._connector != "with":
            return False
        # Only a place may be said twice: by the connector and in its own words.
        if slot in self._claims and (slot != "place" or self._claims[slot] != value):
            return False
        self._claims[slot] = value
        if slot == "shape":
            self._claims["plural"] = term in _PLURALS
            if self._place:
                self._claims["place"] = self._place
        return True
