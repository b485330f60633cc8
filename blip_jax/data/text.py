"""Cleaning of captions and questions, as BLIP's data/utils.py."""

from __future__ import annotations

import re
from pathlib import Path

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


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file that are not blank, stripped.

    Raises:
      FileNotFoundError: no such file.
      ValueError: all are blank, or it is not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of lines at {path}")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8") from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise ValueError(f"{path} has no lines")
    return found


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
