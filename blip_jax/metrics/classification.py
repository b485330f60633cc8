"""How well a score tells right from wrong."""

from collections.abc import Sequence

import numpy as np

Values = Sequence[float] | np.ndarray


def roc(scores: Values, labels: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ROC curve: false positive rates, true positive rates, thresholds, from (0, 0) to (1, 1).

    Equal scores move together, so ties give the diagonal they deserve.

    Raises:
      ValueError: only one class is there, a score is NaN, or scores and labels differ in number.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if scores.shape != labels.shape:
        raise ValueError(f"a ROC curve needs a label a score: {labels.shape} for {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN")
    positives, negatives = labels.sum(), (~labels).sum()
    if not positives or not negatives:
        raise ValueError("a ROC curve needs right and wrong examples; all have one label")
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(labels)[last] / positives
    false = np.cumsum(~labels)[last] / negatives
    return (
        np.concatenate([[0.0], false]),
        np.concatenate([[0.0], true]),
        np.concatenate([[np.inf], scores[last]]),
    )


def roc_auc(scores: Values, labels: Values) -> float:
    """Area under the ROC curve: how often a right example scores above a wrong one."""
    false, true, _ = roc(scores, labels)
    return float(np.trapezoid(true, false))


def precision_recall_at(scores: Values, labels: Values, threshold: float) -> tuple[float, float]:
    """Share of the kept (score >= threshold) that is right, and of the right that is kept."""
    kept, labels = np.asarray(scores, float) >= threshold, np.asarray(labels, bool)
    right = float((kept & labels).sum())
    return right / max(1, kept.sum()), right / max(1, labels.sum())
