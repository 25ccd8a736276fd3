"""Histograms as dashboard files store them: bin centres and counts.  No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bins:
    """Centres and counts of bins that have equal widths or equal ratios."""

    centres: list[float]
    counts: list[int]

    def edges(self) -> list[float]:
        """Return the edges of the bins, one more than there are bins; empty if the centres do not determine them."""
        if len(self.centres) < 2:
            return []
        first, last, n = self.centres[0], self.centres[-1], len(self.centres)
        if log_spaced(self.centres):
            ratio = (last / first) ** (0.5 / (n - 1))
            return [*(c / ratio for c in self.centres), last * ratio]
        step = (last - first) / (n - 1)
        return [first + (i - 0.5) * step for i in range(n + 1)] if step > 0 else []

    @classmethod
    def between(cls, edges: Sequence[float], counts: Sequence[int]) -> Bins:
        """Make bins from edges and counts, and keep one empty bin at either end.

        On a log scale, a centre is the geometric mean of its edges.
        """
        filled = [i for i, n in enumerate(counts) if n]
        first, last = (max(filled[0] - 1, 0), min(filled[-1] + 2, len(counts))) if filled else (0, 0)
        log = log_spaced(edges)
        centre = [(a * b) ** 0.5 if log else (a + b) / 2
                  for a, b in zip(edges[first:last], edges[first + 1 : last + 1], strict=True)]
        return cls(list(map(nine, centre)), list(counts[first:last]))


def log_spaced(points: Sequence[float]) -> bool:
    """Return whether ascending points have equal ratios rather than equal distances."""
    if len(points) < 3 or points[0] <= 0 or points[-1] <= points[0]:
        return False
    first, last, middle, share = points[0], points[-1], points[len(points) // 2], (len(points) // 2) / (len(points) - 1)
    linear, geometric = first + (last - first) * share, first * float(last / first) ** share
    return bool(abs(geometric - middle) < 0.9 * abs(linear - middle))


def nine(value: float) -> float:
    """Round a float32's value to the nine digits that identify it."""
    return float(f"{value:.9g}")
