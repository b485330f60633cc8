"""CIDEr as the COCO caption evaluation computes it (pycocoevalcap 1.2, `cider_scorer.py`).

What that tool and with it every table calls CIDEr is CIDEr-D of the paper (Vedantam et al., 2015):
counts are clipped and lengths compared. `cider_plain` is the paper's CIDEr without either. Neither
stems words.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from blip_jax.metrics.bleu import Tokens, ngrams

SIGMA = 6.0  # of the Gaussian penalty on length differences, in words
ORDERS = (1, 2, 3, 4)

Vector = dict[tuple[str, ...], float]


def cider(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, np.ndarray]:
    """Mean CIDEr-D and the score of each image; 1.0 is what papers print as 100.

    Document frequencies are those of the references at hand, so scores of different reference
    sets do not compare.

    Raises:
      ValueError: there is no candidate, or they and the references differ in number.
    """
    each = compared(candidates, references, similarity_d)
    return float(np.mean(each)), each


def cider_plain(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, np.ndarray]:
    """As `cider`, by the plain cosine of TF-IDF vectors."""
    each = compared(candidates, references, similarity)
    return float(np.mean(each)), each


def compared(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    likeness: Callable[["Sentence", "Sentence"], float],
) -> np.ndarray:
    """Ten times the mean likeness of each candidate and its references [N]."""
    if not candidates:
        raise ValueError("CIDEr needs at least one candidate")
    frequency: Counter[tuple[str, ...]] = Counter()
    for refs in references:
        frequency.update({g for r in refs for n in ORDERS for g in ngrams(r, n)})
    log_total = math.log(len(references))

    def sentence(tokens: Tokens) -> Sentence:
        vectors = [
            {
                gram: count * (log_total - math.log(max(1.0, frequency[gram])))
                for gram, count in ngrams(tokens, n).items()
            }
            for n in ORDERS
        ]
        norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        return Sentence(vectors, norms, max(0, len(tokens) - 1))

    scores = []
    for candidate, refs in zip(candidates, references, strict=True):
        own = sentence(candidate)
        total = sum(likeness(own, sentence(reference)) for reference in refs)
        scores.append(10.0 * total / len(ORDERS) / len(refs))
    return np.asarray(scores)


class Sentence(NamedTuple):
    """TF-IDF vectors of the 1- to 4-grams, their norms, and the tool's length: the bigrams."""

    vectors: list[Vector]
    norms: list[float]
    length: int


def similarity(candidate: Sentence, reference: Sentence) -> float:
    """Sum over the orders of the cosines."""
    return cosines(candidate, reference, lambda own, other: own * other)


def similarity_d(candidate: Sentence, reference: Sentence) -> float:
    """The same, where no n-gram counts more than in the reference, times the length penalty."""
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))
    return penalty * cosines(candidate, reference, lambda own, other: min(own, other) * other)


def cosines(
    candidate: Sentence, reference: Sentence, product: Callable[[float, float], float]
) -> float:
    """Sum over the orders of the normalised products."""
    total = 0.0
    for own, other, *norms in zip(
        candidate.vectors, reference.vectors, candidate.norms, reference.norms, strict=True
    ):
        dot = sum(product(weight, other[gram]) for gram, weight in own.items() if gram in other)
        total += dot / (norms[0] * norms[1]) if all(norms) else dot
    return total
