"""How varied texts are: distinct-n (Li et al., 2016)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from blip_jax.metrics.bleu import Tokens, ngrams
from blip_jax.metrics.interval import Statistic


def distinct(candidates: Sequence[Tokens], n: int) -> tuple[np.ndarray, Statistic]:
    """Different n-grams over all n-grams of the texts.

    Resampling repeats texts and so lowers it: give `centred=True` to `estimate`.

    Returns:
      The number of n-grams of each text [N], and the statistic of it.
    """
    users: dict[tuple[str, ...], list[int]] = defaultdict(list)
    totals = np.zeros(len(candidates))
    for i, candidate in enumerate(candidates):
        grams = ngrams(candidate, n)
        totals[i] = grams.total()
        for gram in grams:
            users[gram].append(i)
    owners = np.array([i for texts in users.values() for i in texts], int)
    starts = np.cumsum([0, *(len(texts) for texts in users.values())])[:-1]

    def share(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        if not len(owners):
            return np.zeros(len(counts))
        rows = (np.add.reduceat(row[owners], starts) > 0 for row in counts)
        different = np.array([row.sum() for row in rows], float)
        return different / np.maximum(1, counts @ values)

    return totals, share
