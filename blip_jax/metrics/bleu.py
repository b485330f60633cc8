"""Corpus BLEU as the COCO caption evaluation computes it (pycocoevalcap 1.2, `bleu_scorer.py`)."""

import math
from collections import Counter
from collections.abc import Sequence

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
    matched, guessed = [0] * 4, [0] * 4
    length = reference_length = 0
    for candidate, refs in zip(candidates, references, strict=True):
        length += len(candidate)
        reference_length += min((abs(len(r) - len(candidate)), len(r)) for r in refs)[1]
        for n in range(1, 5):
            limit: Counter[tuple[str, ...]] = Counter()
            for reference in refs:
                limit |= ngrams(reference, n)
            guessed[n - 1] += max(0, len(candidate) - n + 1)
            matched[n - 1] += (ngrams(candidate, n) & limit).total()
    ratio = (length + TINY) / (reference_length + SMALL)
    penalty = 1.0 if ratio >= 1 else math.exp(1 - 1 / ratio)
    product, scores = 1.0, []
    for n in range(4):
        product *= (matched[n] + TINY) / (guessed[n] + SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores
