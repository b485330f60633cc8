"""How sure a number is: bootstrap intervals over the examples it was made from (Efron, 1979).

A statistic is a function (values [N, ...], counts [R, N]) -> [R]: what the score would be had each
example been drawn `counts` times. All counts 1 is the score itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Statistic = Callable[[Any, np.ndarray], np.ndarray]

RESAMPLES = 1000
LEVEL = 0.95
CELLS = 4_000_000  # counts held at a time


def mean(values: Any, counts: np.ndarray) -> np.ndarray:
    """Mean of values [N]."""
    return counts @ np.asarray(values, float) / counts.sum(1)


def median(values: Any, counts: np.ndarray) -> np.ndarray:
    """Lower median of values [N]."""
    values = np.asarray(values, float)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[:, order], axis=1) * 2 >= counts.sum(1, keepdims=True)
    return values[order][reached.argmax(1)]


def ratio(values: Any, counts: np.ndarray) -> np.ndarray:
    """Sum of the first column over the sum of the second, of values [N, 2]; 0 of nothing."""
    above, below = (counts @ np.asarray(values, float)).T
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def estimate(
    values: Any, statistic: Statistic = mean, *, centred: bool = False, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic and the ends of its 95 % percentile interval, over 1,000 resamples.

    Args:
      values: one for each example, N of them.
      centred: shifts the interval so that the resamples' mean falls on the statistic, for one
        that repeated examples bias.

    Raises:
      ValueError: there is no example.
    """
    total = len(values)
    if total == 0:
        raise ValueError("a score needs at least one example")
    value = float(statistic(values, np.ones((1, total)))[0])
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // total)
    found = [
        statistic(values, draws(rng, min(rows, RESAMPLES - start), total))
        for start in range(0, RESAMPLES, rows)
    ]
    resampled = np.concatenate(found)
    shift = value - resampled.mean() if centred else 0.0
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) + shift
    return value, float(low), float(high)


def draws(rng: np.random.Generator, rows: int, total: int) -> np.ndarray:
    """How often each of `total` examples is drawn, in `rows` draws of that many: [rows, total]."""
    chosen = rng.integers(total, size=(rows, total)) + total * np.arange(rows)[:, None]
    return (
        np.bincount(chosen.reshape(-1), minlength=rows * total).reshape(rows, total).astype(float)
    )
