"""Corpus BLEU as the COCO caption evaluation computes it (pycocoevalcap 1.2, `bleu_scorer.py`)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

Tokens = Sequence[str]
TINY, SMALL = 1e-15, 1e-9  # what the COCO tool adds to numerators and denominators


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of a sentence."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to BLEU-4 of a corpus, as fractions, with the closest reference length.

    Args:
      candidates: one token list an image.
      references: several token lists an image.
    """
    return bleu_of_counts(bleu_counts(candidates, references).sum(0)).tolist()


def bleu_counts(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """What BLEU sums over a corpus, image by image [N, 10].

    The clipped matches of 1- to 4-grams, the n-grams there are, the length in words, and that of
    the reference closest to it.
    """
    rows = np.zeros((len(candidates), 10))
    for row, candidate, refs in zip(rows, candidates, references, strict=True):
        for n in range(1, 5):
            limit: Counter[tuple[str, ...]] = Counter()
            for reference in refs:
                limit |= ngrams(reference, n)
            row[n - 1] = (ngrams(candidate, n) & limit).total()
            row[n + 3] = max(0, len(candidate) - n + 1)
        row[8] = len(candidate)
        row[9] = min((abs(len(r) - len(candidate)), len(r)) for r in refs)[1]
    return rows


def bleu_of_counts(counts: np.ndarray) -> np.ndarray:
    """Sums of `bleu_counts` [..., 10] -> BLEU-1 to BLEU-4 [..., 4]."""
    precision = (counts[..., :4] + TINY) / (counts[..., 4:8] + SMALL)
    length = (counts[..., 8:9] + TINY) / (counts[..., 9:] + SMALL)
    penalty = np.where(length >= 1, 1.0, np.exp(1 - 1 / np.minimum(length, 1)))
    return np.cumprod(precision, -1) ** (1 / np.arange(1, 5)) * penalty
