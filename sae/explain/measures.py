"""Measures of predictions: balanced accuracy, F1, AUC, correlation, and their bootstrap intervals.  No torch.

A prediction that could not be read counts as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 1000
_LEVEL = (2.5, 97.5)


def right_or_wrong(truth: Sequence[bool], predicted: Sequence[bool | None]) -> NDArray[np.bool_]:
    """Return the predictions, in which None (unparsable) is the opposite of the truth."""
    return np.array([not t if p is None else p for t, p in zip(truth, predicted, strict=True)], dtype=bool)


def balanced_accuracy(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Return the mean of the true positive rate and the true negative rate; NaN without examples of both sorts."""
    if truth.all() or not truth.any():
        return math.nan
    return float((predicted[truth].mean() + (~predicted[~truth]).mean()) / 2)


def f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall; 0 where nothing was found."""
    hits = int((truth & predicted).sum())
    return 2 * hits / max(1, int(truth.sum()) + int(predicted.sum()))


def precision_recall(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> tuple[float, float]:
    """Return precision and recall; a precision of nothing is 0."""
    hits = int((truth & predicted).sum())
    return hits / max(1, int(predicted.sum())), hits / max(1, int(truth.sum()))


def auc(truth: NDArray[np.bool_], score: Array) -> float:
    """Return the probability that a positive has a larger score than a negative, ties half; NaN without both."""
    positive, negative = score[truth], score[~truth]
    if not len(positive) or not len(negative):
        return math.nan
    difference = positive[:, None] - negative[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def pearson(x: Array, y: Array) -> float:
    """Return the correlation of two rows of numbers; 0 if one of them is constant."""
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def interval(
    measure: Callable[[NDArray[np.intp]], float], groups: Sequence[Sequence[int]], seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float | None, float | None]:
    """Return the 95% bootstrap interval of `measure`, a function of the indices of the examples.

    Each group of indices is drawn from separately, so that every resample has as many positives as the examples have.
    Returns (None, None) if no resample has a value.
    """
    rng = np.random.default_rng(seed)
    rows = [np.asarray(group) for group in groups if len(group)]
    if not rows:
        return None, None
    values = [measure(np.concatenate([row[rng.integers(0, len(row), len(row))] for row in rows]))
              for _ in range(resamples)]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None, None
    low, high = np.percentile(known, _LEVEL)
    return float(low), float(high)
