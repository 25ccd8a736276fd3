"""The rows of a grid by cell and seed, and the comparisons between them with their uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sae.evaluation.intervals import student_quantile

Row = dict[str, Any]
_REACH = 1.25  # factor by which an interpolation in L0 may leave the measured range


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, its 95% interval by Student's t, and the standard deviation."""

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise one value per seed.  Raises ValueError if there is none."""
        found = list(values)
        mean = statistics.fmean(found)
        if len(found) < 2:
            return cls(mean, len(found))
        sd = statistics.stdev(found)
        half = student_quantile(len(found) - 1) * sd / math.sqrt(len(found))
        return cls(mean, len(found), sd, mean - half, mean + half)

    def text(self, form: str = ".3f", unit: str = "") -> str:
        """Return the mean with its interval."""
        if self.low is None or self.high is None:
            return f"{self.mean:{form}}{unit}"
        return f"{self.mean:{form}}{unit} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Comparison:
    """The difference between two SAEs in one setting, paired by seed; positive where the claim holds."""

    setting: str
    difference: Spread

    @property
    def holds(self) -> bool | None:
        """Return whether the interval is on the side of the claim; None if it contains 0 or is unknown."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= 0 <= high:
            return None
        return low > 0


class Results:
    """All rows of a grid that did not fail."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if "error" not in row]
        self.failed = [row for row in rows if "error" in row]

    def of(self, kind: str, **cell: Any) -> dict[int, Row]:
        """Return the rows of an architecture by seed, for one cell: `n_latents=…, k=…`."""
        return {row["seed"]: row for row in self.rows
                if row["kind"] == kind and all(row["cell"][name] == value for name, value in cell.items())}

    def spread(self, kind: str, value: Callable[[Row], float] | str, **cell: Any) -> Spread | None:
        """Return a figure of a cell over its seeds; None if there is no such cell."""
        read = (lambda row: row[value]) if isinstance(value, str) else value
        found = [float(read(row)) for row in self.of(kind, **cell).values()]
        return Spread.of(found) if found else None

    def gain(self, better: str, worse: str, key: str, setting: str, **cell: Any) -> Comparison | None:
        """Return by how many percent one architecture has less `key` than another in a cell, paired by seed."""
        one, other = self.of(better, **cell), self.of(worse, **cell)
        seeds = sorted(one.keys() & other.keys())
        if not seeds:
            return None
        return Comparison(setting, Spread.of(100 * (1 - one[s][key] / other[s][key]) for s in seeds))

    def gain_at_equal_l0(self, better: str, worse: str, key: str, setting: str, size: int, **cell: Any
                         ) -> Comparison | None:
        """Return the gain over a cell of `worse`, with `better` interpolated to that cell's L0, seed by seed.

        The interpolation is linear in the logarithms of L0 and `key` over all cells of `better` of that size.  A cell
        whose L0 is far outside their range is not compared: the result is None.
        """
        gains = []
        for seed, row in self.of(worse, n_latents=size, **cell).items():
            curve = [(other["l0"], other[key]) for other in self.rows
                     if other["kind"] == better and other["cell"]["n_latents"] == size and other["seed"] == seed]
            found = interpolated(curve, row["l0"])
            if found is not None:
                gains.append(100 * (1 - found / row[key]))
        return Comparison(setting, Spread.of(gains)) if gains else None


def interpolated(curve: Sequence[tuple[float, float]], x: float) -> float | None:
    """Return the value of a curve at x, linear in both logarithms; None if it has one point or x is out of reach."""
    points = sorted((math.log(a), math.log(b)) for a, b in curve if a > 0 and b > 0)
    if len(points) < 2 or x <= 0:
        return None
    at, slack = math.log(x), math.log(_REACH)
    if not points[0][0] - slack <= at <= points[-1][0] + slack:
        return None
    (x0, y0), (x1, y1) = next((pair for pair in pairwise(points) if at <= pair[1][0]), (points[-2], points[-1]))
    return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0)) if x1 > x0 else math.exp(y0)
