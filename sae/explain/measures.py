"""Measures of predictions: balanced accuracy, F1, AUC, correlation, and their bootstrap intervals.  No torch.

A prediction that could not be read counts as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float | None, float | None]  # both None: there is none
RESAMPLES = 1000
_LEVEL = (2.5, 97.5)


def right_or_wrong(truth: Sequence[bool], predicted: Sequence[bool | None]) -> Bools:
    """Return the predictions, in which None (unparsable) is the opposite of the truth."""
    return np.array([not t if p is None else p for t, p in zip(truth, predicted, strict=True)], dtype=bool)


def balanced_accuracy(truth: Bools, predicted: Bools) -> float:
    """Return the mean of the true positive rate and the true negative rate; NaN without examples of both sorts."""
    if truth.all() or not truth.any():
        return math.nan
    return float((predicted[truth].mean() + (~predicted[~truth]).mean()) / 2)


def f1(truth: Bools, predicted: Bools) -> float:
    """Return the harmonic mean of precision and recall; 0 where nothing was found."""
    hits = int((truth & predicted).sum())
    return 2 * hits / max(1, int(truth.sum()) + int(predicted.sum()))


def precision_recall(truth: Bools, predicted: Bools) -> tuple[float, float]:
    """Return precision and recall; a precision of nothing is 0."""
    hits = int((truth & predicted).sum())
    return hits / max(1, int(predicted.sum())), hits / max(1, int(truth.sum()))


def auc(truth: Bools, score: Array) -> float:
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


def balanced_interval(truth: Bools, predicted: Bools, seed: int = 0) -> Interval:
    """Return the bootstrap interval of the balanced accuracy.

    Positives and negatives are drawn apart, so that every resample has as many of each as the examples have.
    """
    if truth.all() or not truth.any():
        return None, None
    rng = np.random.default_rng(seed)
    rates = [_resampled(row.astype(np.float64), rng).mean(axis=1) for row in (predicted[truth], ~predicted[~truth])]
    return _percentiles((rates[0] + rates[1]) / 2)


def mean_interval(values: Array, seed: int = 0) -> Interval:
    """Return the bootstrap interval of a mean."""
    if not len(values):
        return None, None
    return _percentiles(_resampled(values, np.random.default_rng(seed)).mean(axis=1))


def auc_interval(truth: Bools, score: Array, seed: int = 0) -> Interval:
    """Return the bootstrap interval of the AUC, positives and negatives drawn apart."""
    if truth.all() or not truth.any():
        return None, None
    rng = np.random.default_rng(seed)
    positive, negative = (_resampled(score[side], rng) for side in (truth, ~truth))
    difference = positive[:, :, None] - negative[:, None, :]
    return _percentiles((difference > 0).mean(axis=(1, 2)) + (difference == 0).mean(axis=(1, 2)) / 2)


def pearson_interval(rows: Sequence[tuple[Array, Array]], seed: int = 0) -> Interval:
    """Return the bootstrap interval of the correlation over all pairs of several texts, whole texts drawn."""
    if not rows:
        return None, None
    sums = np.array([[len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()] for x, y in rows])
    rng = np.random.default_rng(seed)
    n, x, y, xx, yy, xy = sums[rng.integers(0, len(rows), (RESAMPLES, len(rows)))].sum(axis=1).T
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    return _percentiles(np.where(spread > 1e-12, (n * xy - x * y) / np.sqrt(np.maximum(spread, 1e-12)), 0.0))


def _resampled(values: Array, rng: np.random.Generator) -> Array:
    """Return `RESAMPLES` rows of as many values, drawn with repetition."""
    drawn: Array = values[rng.integers(0, len(values), (RESAMPLES, len(values)))]
    return drawn


def _percentiles(values: Array) -> Interval:
    low, high = np.percentile(values, _LEVEL)
    return float(low), float(high)
