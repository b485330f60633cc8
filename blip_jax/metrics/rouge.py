"""ROUGE-L as the COCO caption evaluation computes it (pycocoevalcap 1.2, `rouge.py`)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from blip_jax.metrics.bleu import Tokens

BETA = 1.2  # how much recall outweighs precision


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """F-measure of the longest common subsequence, best of the references, image by image [N].

    As in the tool, an empty sentence is one empty word.
    """
    return np.array(
        [
            f_measure(candidate or [""], [r or [""] for r in refs])
            for candidate, refs in zip(candidates, references, strict=True)
        ]
    )


def f_measure(candidate: Tokens, references: Sequence[Tokens]) -> float:
    """The best precision and the best recall, each over all references, combined."""
    common = [common_length(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(c / len(r) for c, r in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a row of its table in one integer (Hyyrö, 2004)."""
    places: dict[str, int] = defaultdict(int)
    for i, token in enumerate(first):
        places[token] |= 1 << i
    full = row = (1 << len(first)) - 1
    for token in second:
        match = row & places.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()
