"""Which texts stay: the one statement of the rule, over flat arrays (paper section 3.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.5  # softmax ITM probability; the authors' answer on what their filter keeps
PAPER_NOISE = {"nucleus": 0.25, "beam": 0.19}  # share of synthetic texts dropped, paper Table 2
PAPER_NOISE_SHARED = 0.08  # of a captioner and filter that share parameters, paper Table 4
CHOICES = ("web", "synthetic", "both", "best")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What keeps a text. By default the paper's: every text with an ITM of 0.5 or more.

    Attributes:
      threshold: least score of a kept text.
      top_fraction: instead of the threshold, the share of texts to keep, the best ones; of those
        that all other settings leave.
      by: the score: "itm" probability or "itc" cosine.
      texts: "web" or "synthetic" alone; "both", each judged for itself; "best", of each image's
        texts the one with the highest score.
      best_of_n: of each image's synthetic texts, only the one with the highest score.
      min_words, max_words: bounds of a text's length; words are set apart by blanks.
      sources: only images of these; all, if empty.
      drop_duplicates: of images with the same bytes, only the first.
      noun_support: least share of a synthetic text's nouns that another text of its image has.
      synthetic_share: share of synthetic texts among those kept; the surplus of the other kind is
        dropped at random, the same way every time.
    """

    threshold: float = THRESHOLD
    top_fraction: float | None = None
    by: str = "itm"
    texts: str = "both"
    best_of_n: bool = False
    min_words: int = 1
    max_words: int | None = None
    sources: tuple[str, ...] = ()
    drop_duplicates: bool = False
    noun_support: float = 0.0
    synthetic_share: float | None = None

    def __post_init__(self) -> None:
        if self.texts not in CHOICES or self.by not in ("itm", "itc"):
            raise ValueError(
                f"texts must be one of {', '.join(CHOICES)}, and by itm or itc; "
                f"got {self.texts!r} and {self.by!r}"
            )
        if self.max_words is not None and self.max_words < self.min_words:
            raise ValueError(f"max_words {self.max_words} is under min_words {self.min_words}")
        for name in ("top_fraction", "noun_support", "synthetic_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")


@dataclasses.dataclass(frozen=True)
class Texts:
    """N texts of R images, flat, in the order of the images.

    Attributes:
      image: int64 [N], the number of the text's image, never falling.
      synthetic: bool [N], False for web texts.
      itm, itc: float32 [N]; NaN where a text was not scored, which is never kept.
      words: int32 [N].
      support: float32 [N], of `nouns.support`.
      draw: float32 [N], random numbers that `synthetic_share` drops by.
      source: int32 [R], numbers of `sources`.
      content: uint64 [R], of the image's SHA-256; 0 where it is not known.
      sources: names.
    """

    image: np.ndarray
    synthetic: np.ndarray
    itm: np.ndarray
    itc: np.ndarray
    words: np.ndarray
    support: np.ndarray
    draw: np.ndarray
    source: np.ndarray
    content: np.ndarray
    sources: tuple[str, ...]


def plain_texts(image: Sequence[int], synthetic: Sequence[bool], itm: Sequence[float]) -> Texts:
    """`Texts` of which nothing but the ITM is known."""
    images, number = max(image, default=-1) + 1, len(image)
    score = np.array(itm, np.float32)
    return Texts(
        image=np.array(image, np.int64),
        synthetic=np.array(synthetic, bool),
        itm=score,
        itc=np.full(number, np.nan, np.float32),
        words=np.ones(number, np.int32),
        support=np.ones(number, np.float32),
        draw=np.zeros(number, np.float32),
        source=np.zeros(images, np.int32),
        content=np.zeros(images, np.uint64),
        sources=("",),
    )


def choose(texts: Texts, rule: Rule) -> np.ndarray:
    """bool [N]: which texts a rule keeps."""
    score = getattr(texts, rule.by)
    kept = candidates(texts, rule) & ~np.isnan(score)
    if rule.best_of_n:
        kept &= ~texts.synthetic | best(texts.image, score, kept & texts.synthetic)
    if rule.texts == "best":
        kept = best(texts.image, score, kept)
    kept &= score >= cut(score[kept], rule)
    if rule.synthetic_share is not None:
        kept = mixed(kept, texts, rule.synthetic_share)
    return kept


def cut(score: np.ndarray, rule: Rule) -> np.float64:
    """The least score that stays, of the scores that may; equal ones stay or go together.

    In float64, so that a threshold is compared as it was written.
    """
    if rule.top_fraction is None:
        return np.float64(rule.threshold)
    number = round(rule.top_fraction * len(score))
    return np.float64(np.partition(score, -number)[-number] if number else np.inf)


def candidates(texts: Texts, rule: Rule) -> np.ndarray:
    """bool [N]: texts that may stay, whatever their score."""
    may = texts.words >= max(rule.min_words, 1)
    if rule.max_words is not None:
        may &= texts.words <= rule.max_words
    if rule.texts in ("web", "synthetic"):
        may &= texts.synthetic == (rule.texts == "synthetic")
    if rule.noun_support:
        may &= ~texts.synthetic | (texts.support >= np.float32(rule.noun_support))
    if rule.sources:
        wanted = [texts.sources.index(name) for name in known(rule.sources, texts.sources)]
        may &= np.isin(texts.source, wanted)[texts.image]
    if rule.drop_duplicates:
        may &= first_of_each(texts.content)[texts.image]
    return may


def known(wanted: Sequence[str], sources: Sequence[str]) -> Sequence[str]:
    """`wanted`; ValueError if one of them is no source."""
    for name in wanted:
        if name not in sources:
            raise ValueError(f"there is no source {name!r}; there are {', '.join(sources)}")
    return wanted


def first_of_each(content: np.ndarray) -> np.ndarray:
    """bool [R]: rows whose content no row before them has; 0 is like no other."""
    first = content == 0
    first[np.unique(content, return_index=True)[1]] = True
    return first


def best(image: np.ndarray, score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """bool [N]: of each image's texts `among` [N], the first with the highest score."""
    index = np.flatnonzero(among)
    out = np.zeros(len(image), bool)
    if not len(index):
        return out
    start = np.flatnonzero(np.append(True, np.diff(image[index]) != 0))
    highest = np.maximum.reduceat(score[index], start)
    top = index[score[index] == np.repeat(highest, np.diff(np.append(start, len(index))))]
    out[top[np.append(True, np.diff(image[top]) != 0)]] = True
    return out


def mixed(kept: np.ndarray, texts: Texts, share: float) -> np.ndarray:
    """The most of the kept texts of which `share` are synthetic."""
    web, synthetic = kept & ~texts.synthetic, kept & texts.synthetic
    have_web, have_synthetic = int(web.sum()), int(synthetic.sum())
    total = min(
        have_web / (1 - share) if share < 1 else np.inf,
        have_synthetic / share if share > 0 else np.inf,
    )
    number = min(round(total * share), have_synthetic)
    return lowest(web, texts.draw, min(round(total - total * share), have_web)) | lowest(
        synthetic, texts.draw, number
    )


def lowest(among: np.ndarray, draw: np.ndarray, number: int) -> np.ndarray:
    """bool [N]: the `number` of `among` with the smallest draws."""
    index = np.flatnonzero(among)
    out = np.zeros(len(among), bool)
    out[index[np.argsort(draw[index], kind="stable")[:number]]] = True
    return out


def counts(texts: Texts, kept: np.ndarray) -> dict[str, Any]:
    """What a choice leaves: texts, images with one or more, by kind."""
    web, synthetic = kept & ~texts.synthetic, kept & texts.synthetic
    images = [distinct(texts.image[part]) for part in (kept, web, synthetic)]
    return {
        "texts": int(kept.sum()),
        "web": int(web.sum()),
        "synthetic": int(synthetic.sum()),
        "images": images[0],
        "images_web": images[1],
        "images_synthetic": images[2],
    }


def distinct(rising: np.ndarray) -> int:
    """How many values there are in an array that never falls."""
    return int(np.count_nonzero(np.diff(rising))) + bool(len(rising))
