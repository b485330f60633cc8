"""What every task's `evaluate` gives: scores with intervals, examples to look at, submissions."""

import dataclasses
from pathlib import Path
from typing import Any

from blip_jax.metrics.interval import Statistic, estimate, mean


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of an evaluation, with the 95 % interval of a bootstrap over its examples.

    `low` and `high` are None where no interval was asked for.
    """

    value: float
    low: float | None = None
    high: float | None = None


def score(values: Any, statistic: Statistic = mean, *, centred: bool = False) -> Score:
    """A score with its interval, from one value an example; see `metrics.interval.estimate`."""
    return Score(*estimate(values, statistic, centred=centred))


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as a page shows it.

    Attributes:
      images: the pictures that were looked at: places, or encoded bytes.
      lines: what to read beside them, as (label, text): the question, the truth, the prediction.
      value: how good the prediction is; higher is better.
    """

    images: tuple[Path | str | bytes, ...]
    lines: tuple[tuple[str, str], ...]
    value: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome of one task on one set of data.

    Attributes:
      scores: by the field's names ("cider", "bleu4", "accuracy"), as fractions.
      count: examples that were judged.
      examples: all of them, in the order of the data.
      submissions: file name -> text, or JSON value, as the task's server takes it.
      skipped: examples left out, by reason.
      missing: metric -> why it was not computed.
    """

    scores: dict[str, Score]
    count: int
    examples: list[Example]
    submissions: dict[str, Any] = dataclasses.field(default_factory=dict)
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
