"""CHAIR: objects that captions name and pictures do not show (Rohrbach et al., 2018)."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from blip_jax.metrics.bleu import Tokens
from blip_jax.metrics.tokenize import tokenize

Names = dict[tuple[str, ...], str]
IRREGULAR = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse",
    "knives": "knife", "geese": "goose", "feet": "foot", "teeth": "tooth", "sheep": "sheep",
    "wolves": "wolf", "calves": "calf", "loaves": "loaf", "buses": "bus", "ponies": "pony",
}  # fmt: skip


def read_synonyms(path: str | Path) -> Names:
    """Reads the official `synonyms.txt`: one object a line, its names separated by commas.

    Returns:
      Words of a name -> the object, its first name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a name stands for two objects, or there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No synonyms file at {path}.")
    names: Names = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        words = [tuple(singular(t) for t in tokenize(name)) for name in line.split(",")]
        words = [name for name in words if name]
        for name in words:
            known = names.setdefault(name, " ".join(words[0]))
            if known != " ".join(words[0]):
                raise ValueError(f"{path}, line {number}: {' '.join(name)!r} is also a {known}")
    if not names:
        raise ValueError(f"{path} names no object; expected lines such as 'dog, puppy'")
    return names


def objects_in(tokens: Tokens, names: Names) -> list[str]:
    """The objects that a text names, in order; of several names at a place the longest counts."""
    words = [singular(token) for token in tokens]
    longest = max(map(len, names))
    found, place = [], 0
    while place < len(words):
        for length in range(longest, 0, -1):
            name = names.get(tuple(words[place : place + length]))
            if name is not None:
                found.append(name)
                break
        place += length if name is not None else 1
    return found


def chair(
    candidates: Sequence[Tokens], shown: Sequence[Iterable[str]], names: Names
) -> tuple[np.ndarray, np.ndarray]:
    """What each caption names that is not there.

    Args:
      candidates: one token list an image.
      shown: the objects in each image, by any of their names.

    Returns:
      Whether a caption names anything that is not shown [N], whose mean is CHAIRs; and such
      mentions beside all mentions of objects [N, 2], whose `interval.ratio` is CHAIRi.
    """
    rows = []
    for tokens, objects in zip(candidates, shown, strict=True):
        named = objects_in(tokens, names)
        there = {found for o in objects for found in objects_in(tokenize(o), names)}
        rows.append((sum(name not in there for name in named), len(named)))
    mentions = np.array(rows, float).reshape(-1, 2)
    return mentions[:, 0] > 0, mentions


def singular(word: str) -> str:
    """A noun's singular by the common rules, enough for the names of things."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if re.search("(ss|us|is)$", word) or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if re.search("(ch|sh|x|ss|z|to)es$", word):
        return word[:-2]
    return word.removesuffix("s")
