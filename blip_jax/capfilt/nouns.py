"""What a caption names: a rule over words, without a parser.

Words are lower-cased and freed of punctuation. Function words, common verbs, numbers' words and
words on -ing (of five letters and more) end a phrase; what stands between is a noun phrase, its
last word the noun. "A man riding a red bike on the beach" names man, red bike, beach. Adjectives
after a verb ("the bike is red") and verbs that are not listed are taken for nouns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_FUNCTION = """
a an the this that these those some any each every no all both other another such its his her their
my your our he she it they we i you him them us me who which what whose and or but nor so yet if
while as than then of in on at by for from with without to into onto over under above below between
among through across along around behind beside near next front top up down out off about against
during after before inside outside there here not very
"""
_VERBS = """
is are was were be been am has have had do does did can could will would may might sit sits sat
stand stands stood lie lies lay walk walks walked run runs ran ride rides hold holds held wear wears
wore look looks looked play plays played eat eats ate go goes went make makes made take takes took
get gets got show shows shown fly flies jump jumps parked covered filled surrounded set
"""
_COUNTS = """
one two three four five six seven eight nine ten many several few lot lots bunch group pair couple
picture photo image view
"""
BREAKS = frozenset(f"{_FUNCTION} {_VERBS} {_COUNTS}".split())
_MARKS = r"[^\w\s'-]+"


def noun_phrases(text: str) -> list[str]:
    """The noun phrases of a text, in order."""
    phrases: list[list[str]] = [[]]
    for word in re.sub(_MARKS, " . ", text.lower()).split():
        if is_break(word):
            phrases.append([])
        else:
            phrases[-1].append(word)
    return [" ".join(phrase) for phrase in phrases if phrase]


def is_break(word: str) -> bool:
    """Whether a lower-case word ends a noun phrase."""
    verb = len(word) >= 5 and word.endswith("ing")
    return verb or word in BREAKS or not any(c.isalpha() for c in word)


def singular(word: str) -> str:
    """The word less a plural's s: "dogs" and "dog" are one noun."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "su" else word


def support(texts: pa.StringArray, image: np.ndarray) -> np.ndarray:
    """How far the texts of an image agree on what is there.

    Args:
      texts: N texts.
      image: int [N], the image that each belongs to.

    Returns:
      float32 [N]: the share of a text's nouns that another text of its image has among its words;
      1 for a text without nouns.
    """
    import pyarrow.compute as pc

    split = pc.utf8_split_whitespace(
        pc.replace_substring_regex(pc.utf8_lower(texts), pattern=_MARKS, replacement=" . ")
    )
    owner = np.repeat(np.arange(len(texts)), pc.list_value_length(split).to_numpy())
    words = pc.list_flatten(split).dictionary_encode()
    codes = words.indices.to_numpy()
    vocabulary = words.dictionary.to_pylist()
    named = np.array([bool(word) and not is_break(word) for word in vocabulary], bool)[codes]
    stems: dict[str, int] = {}
    of_stem = np.array([stems.setdefault(singular(w), len(stems)) for w in vocabulary], np.int64)
    # A noun is a named word after which none follows in its text.
    follows = np.append((owner[1:] == owner[:-1]) & named[1:], False)[: len(owner)]
    key = owner * len(stems) + of_stem[codes]
    mentions = np.unique(key[named])
    nouns = np.unique(key[named & ~follows])
    of_image = image[mentions // max(len(stems), 1)] * len(stems) + mentions % max(len(stems), 1)
    _, group, counts = np.unique(of_image, return_inverse=True, return_counts=True)
    agreed = counts[group][np.searchsorted(mentions, nouns)] > 1
    text = nouns // max(len(stems), 1)
    total = np.bincount(text, minlength=len(texts))
    found = np.bincount(text, weights=agreed, minlength=len(texts))
    return np.where(total > 0, found / np.maximum(total, 1), 1.0).astype(np.float32)
