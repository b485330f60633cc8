"""CIDEr as the COCO caption evaluation computes it (pycocoevalcap 1.2, `cider_scorer.py`)."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from blip_jax.metrics.bleu import Tokens, ngrams

SIGMA = 6.0  # of the Gaussian penalty on length differences, in words
ORDERS = (1, 2, 3, 4)

Vector = dict[tuple[str, ...], float]


def cider(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> tuple[float, np.ndarray]:
    """Mean CIDEr and the score of each image; 1.0 is what papers print as 100.

    Document frequencies are those of the references at hand, so scores of different reference
    sets do not compare.

    Raises:
      ValueError: there is no candidate, or they and the references differ in number.
    """
    if not candidates:
        raise ValueError("CIDEr needs at least one candidate")
    frequency: Counter[tuple[str, ...]] = Counter()
    for refs in references:
        frequency.update({g for r in refs for n in ORDERS for g in ngrams(r, n)})
    log_total = math.log(len(references))

    def vectors(tokens: Tokens) -> dict[int, Vector]:
        weights: dict[int, Vector] = defaultdict(dict)
        for n in ORDERS:
            for gram, count in ngrams(tokens, n).items():
                rarity = log_total - math.log(max(1.0, frequency[gram]))
                weights[n][gram] = count * rarity
        return weights

    scores = []
    for candidate, refs in zip(candidates, references, strict=True):
        own = vectors(candidate)
        total = 0.0
        for reference in refs:
            other = vectors(reference)
            delta = bigrams(candidate) - bigrams(reference)
            penalty = math.exp(-(delta**2) / (2 * SIGMA**2))
            total += penalty * sum(clipped_cosine(own[n], other[n]) for n in ORDERS)
        scores.append(10.0 * total / len(ORDERS) / len(refs))
    return float(np.mean(scores)), np.asarray(scores)


def bigrams(tokens: Tokens) -> int:
    """The tool's sentence length: its number of bigrams."""
    return max(0, len(tokens) - 1)


def clipped_cosine(candidate: Vector, reference: Vector) -> float:
    """Cosine in which no n-gram counts more than in the reference."""
    dot = sum(
        min(weight, reference[gram]) * reference[gram]
        for gram, weight in candidate.items()
        if gram in reference
    )
    norms = math.sqrt(
        sum(w * w for w in candidate.values()) * sum(w * w for w in reference.values())
    )
    return dot / norms if norms else dot
