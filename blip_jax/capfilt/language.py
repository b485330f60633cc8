"""What the texts are like: length, diversity, repetition, names and numbers, persons."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from blip_jax.capfilt.sample import Row, Text

DIVERSITY = 10_000  # texts that distinct-n is measured on: it falls as texts are added
TOP = 12  # most repeated captions, most often lost names
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"(?<=[\w,;] )[A-Z][a-z]\w+")  # a capital, not at the head of a sentence
PERSONS = {
    "woman": "woman women lady ladies female females",
    "man": "man men gentleman guy guys male males",
    "girl": "girl girls schoolgirl",
    "boy": "boy boys schoolboy",
    "child": "child children kid kids baby babies toddler",
    "older person": "elderly senior seniors grandmother grandfather grandma grandpa pensioner",
    "person": "person people pedestrian crowd human humans",
    "bride, wife, mother": "bride wife mother mom mum daughter sister",
    "groom, husband, father": "groom husband father dad son brother",
    "lgbtq": "gay lesbian bisexual transgender queer lgbt lgbtq",
    "black, african": "black african african-american",
    "asian": "asian chinese japanese korean indian",
    "muslim, arab": "muslim arab hijab arabic",
    "disabled": "disabled wheelchair blind deaf amputee",
}


def describe_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Length and diversity of texts.

    Returns:
      number of texts, mean words, share of texts that another text repeats; and of the first
      `DIVERSITY` texts, as many as there are, vocabulary and distinct-1, -2, -3 (Li et al. 2016:
      different n-grams over all n-grams).
    """
    split = [text.lower().split() for text in texts]
    few = split[:DIVERSITY]
    times = Counter(" ".join(words) for words in split)
    repeated = sum(count for count in times.values() if count > 1)
    return {
        "texts": len(texts),
        "words": sum(map(len, split)) / max(len(split), 1),
        "repeated": repeated / max(len(split), 1),
        "measured_on": len(few),
        "vocabulary": len({word for words in few for word in words}),
        **{f"distinct_{n}": distinct(few, n) for n in (1, 2, 3)},
    }


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Different n-grams over all n-grams; 0 where there is none."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for words in texts:
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / max(total, 1)


def most_repeated(texts: Iterable[str]) -> list[tuple[str, int]]:
    """The texts that occur most often, more than once, with their number."""
    times = Counter(" ".join(text.lower().split()) for text in texts)
    return [(text, count) for text, count in times.most_common(TOP) if count > 1]


def lost(rows: Sequence[Row], pattern: re.Pattern[str]) -> dict[str, Any]:
    """Of what a pattern finds in web texts, how much the captions of the same images say too.

    Returns:
      share of web texts with a match; of images whose web text was dropped and a caption kept,
      the matches, the share of them that no kept caption holds, and the ones most often lost.
    """
    with_match = replaced = matches = 0
    missing: Counter[str] = Counter()
    web_texts = 0
    for row in rows:
        if row.web is None:
            continue
        web_texts += 1
        found = set(pattern.findall(row.web.text))
        with_match += bool(found)
        kept = [text.text.lower() for text in row.captions if text.kept]
        if not found or row.web.kept or not kept:
            continue
        replaced += 1
        matches += len(found)
        missing.update(word for word in found if not any(word.lower() in text for text in kept))
    return {
        "web_share": with_match / max(web_texts, 1),
        "images": replaced,
        "found": matches,
        "lost": sum(missing.values()) / max(matches, 1),
        "examples": missing.most_common(TOP),
    }


def names_and_numbers(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`lost` for names (capitalised words inside a sentence) and for numbers."""
    return {"names": lost(rows, _NAME), "numbers": lost(rows, _NUMBER)}


def persons(texts: Sequence[Text]) -> list[dict[str, Any]]:
    """Keep rate of texts that name persons of a kind, with 95 % Wilson intervals.

    `apart` says that the interval excludes the keep rate of all texts.
    """
    overall = sum(text.kept for text in texts) / max(len(texts), 1)
    by_word = {word: kind for kind, words in PERSONS.items() for word in words.split()}
    count: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for text in texts:
        kinds = {by_word[w] for w in re.findall(r"[\w-]+", text.text.lower()) if w in by_word}
        count.update(kinds)
        if text.kept:
            kept.update(kinds)
    found = []
    for kind in PERSONS:
        if count[kind]:
            low, high = wilson(kept[kind], count[kind])
            found.append({
                "kind": kind, "texts": count[kind], "rate": kept[kind] / count[kind],
                "low": low, "high": high, "apart": not low <= overall <= high,
            })  # fmt: skip
    return found


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share; (0, 1) of no trials."""
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max((centre - half) / (1 + spread), 0.0), min((centre + half) / (1 + spread), 1.0)
