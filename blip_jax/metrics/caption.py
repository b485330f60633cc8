"""The caption metrics that are computed here, each as values and the statistic of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from blip_jax.metrics.bleu import bleu_counts, bleu_of_counts
from blip_jax.metrics.cider import cider, cider_plain
from blip_jax.metrics.diversity import distinct
from blip_jax.metrics.interval import Statistic, mean
from blip_jax.metrics.rouge import rouge_l
from blip_jax.metrics.tokenize import tokenize, words


def caption_metrics(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, tuple[Any, Statistic]]:
    """bleu1 to bleu4, rouge_l, cider, cider_plain, distinct1, distinct2, as fractions.

    Args:
      captions: one an image.
      references: several an image.

    Raises:
      ValueError: there is no caption.
    """
    if not captions:
        raise ValueError("there is no caption to judge")
    tokens = [tokenize(caption) for caption in captions]
    reference_tokens = [[tokenize(text) for text in texts] for texts in references]
    split = [words(row) for row in tokens]
    sentences = split, [[words(text) for text in texts] for texts in reference_tokens]
    counts = bleu_counts(*sentences)
    return {
        **{f"bleu{n}": (counts, partial(bleu_statistic, n)) for n in (1, 2, 3, 4)},
        "rouge_l": (rouge_l(tokens, reference_tokens), mean),
        "cider": (cider(*sentences)[1], mean),
        "cider_plain": (cider_plain(*sentences)[1], mean),
        "distinct1": distinct(split, 1),
        "distinct2": distinct(split, 2),
    }


def bleu_statistic(n: int, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Corpus BLEU-n of the rows of `bleu_counts`."""
    return bleu_of_counts(counts @ values)[:, n - 1]
