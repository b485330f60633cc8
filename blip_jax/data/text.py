"""Cleaning of captions and questions, as BLIP's data/utils.py."""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"([.!\"()*#:;~])")
_SPACES = re.compile(r"\s{2,}")
_SIDE = re.compile(r"\b(left|right)(?=(most)?\b)", re.IGNORECASE)


def pre_caption(caption: str, max_words: int = 30) -> str:
    """Lower case, punctuation to spaces, spaces collapsed, at most `max_words` words."""
    caption = _SPACES.sub(" ", _PUNCTUATION.sub(" ", caption.lower()))
    return _first_words(caption.rstrip("\n").strip(" "), max_words)


def pre_question(question: str, max_words: int = 30) -> str:
    """Lower case, punctuation removed (`?` stays), at most `max_words` words."""
    return _first_words(_PUNCTUATION.sub("", question.lower()).rstrip(" "), max_words)


def swap_left_right(text: str) -> str:
    """Exchanges the words left and right, for a mirrored image; case of the first letter stays."""
    return _SIDE.sub(_other_side, text)


def names_side(text: str) -> bool:
    """Whether `swap_left_right` would change it."""
    return _SIDE.search(text) is not None


def _first_words(text: str, max_words: int) -> str:
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text


def _other_side(match: re.Match[str]) -> str:
    word = match.group()
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
