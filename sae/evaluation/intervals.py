"""95% intervals of measured numbers.

A number that is computed from sums over text has a jackknife interval: the text is divided into parts, and the
number is computed again without each of them.  A mean over items (tasks, latents) has Student's interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from sae.evaluation.measure import Value

Numbers = Mapping[str, float | None]


def student_quantile(degrees: int) -> float:
    """Return the two-sided 95% quantile of Student's t distribution, to within 1% from 4 degrees of freedom on.

    Source: Abramowitz & Stegun 26.7.5.  Raises ValueError without a degree of freedom.
    """
    if degrees < 1:
        raise ValueError("degrees: an interval needs at least two parts")
    exact = {1: 12.706205, 2: 4.302653, 3: 3.182446}
    z = 1.959963985
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return exact.get(degrees, z + float(sum(term / degrees ** (i + 1) for i, term in enumerate(terms))))


def jackknife(numbers: Callable[[int | None], Numbers], n_parts: int) -> dict[str, Value]:
    """Return every number with its interval.

    `numbers(i)` computes the numbers without part i, and `numbers(None)` from all parts.  A number has no interval
    if there is only one part, or if it cannot be computed without some part.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11.
    """
    whole = numbers(None)
    without = [numbers(i) for i in range(n_parts)] if n_parts > 1 else []
    return {key: _jackknifed(key, value, [part.get(key) for part in without]) for key, value in whole.items()}


def _jackknifed(key: str, value: float | None, without: Sequence[float | None]) -> Value:
    known = [v for v in without if v is not None and math.isfinite(v)]
    if value is None or not math.isfinite(value):
        return Value(key, None)
    if len(known) < len(without) or not known:
        return Value(key, value)
    mean, n = sum(known) / len(known), len(known)
    error = math.sqrt((n - 1) / n * sum((v - mean) ** 2 for v in known))
    half = student_quantile(n - 1) * error
    return Value(key, value, value - half, value + half)


def mean_of(key: str, values: Sequence[float], note: str = "", *, share: bool = False) -> Value:
    """Return the mean of independent items with its interval; `n` is their number.

    The interval of a mean of shares ends at 0 and 1.
    """
    n = len(values)
    if not n:
        return Value(key, None, n=0, note=note or "nothing was measured")
    mean = sum(values) / n
    if n == 1:
        return Value(key, mean, n=1, note=note)
    half = student_quantile(n - 1) * math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    low, high = (max(0.0, mean - half), min(1.0, mean + half)) if share else (mean - half, mean + half)
    return Value(key, mean, low, high, n, note)
