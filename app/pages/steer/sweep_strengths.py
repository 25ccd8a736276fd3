"""Strengths of a sweep: which to try first, which of the tried ones are usable, and where to look next.

A strength is *usable* where its text shows more of the concept than text that is hardly steered, and still reads well:
its perplexity under the unsteered model is at most `PERPLEXITY_TIMES` as high, and its repetition at most
`REPETITION_MORE` above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from app.pages.steer.form import Chip
from app.render.numbers import minus
from app.worker.protocol import Cell
from sae.steering.request import MAX_STRENGTH, RATIO_WARN

PERPLEXITY_TIMES = 3.0
REPETITION_MORE = 0.2

# Shares of the strength at which text often begins to break; most of them strengthen the latent.
_SHARES = (-1.5, -1.0, -0.5, -0.1, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5)
_UNKNOWN_BREAK = 4.0  # × max, where the build does not know the norm of the residual stream
_STEPS = 9  # strengths of a narrower sweep
_HARDLY = 0.1  # of the largest strength of a sweep: so little changes next to nothing
_CLOSE = 1.1  # the ratio of two strengths up to which there is no narrower sweep between them


def default_strengths(chip: Chip) -> list[float]:
    """Return what a sweep of this latent tries: 0.1 to 1.5 times the strength at which text often breaks, both signs.

    A factor is as far from 1, which changes nothing.
    """
    breaks = RATIO_WARN / chip.unit_ratio if chip.unit_ratio else _UNKNOWN_BREAK
    return _rounded([_neutral(chip.mode) + share * breaks for share in _SHARES])


def strengths_text(strengths: Sequence[float]) -> str:
    """Return strengths as the form shows them, with spaces between."""
    return " ".join(minus(f"{strength:g}") for strength in strengths)


@dataclass(frozen=True)
class Verdict:
    """A finished sweep's result: `usable` ranges of strengths, or, without any, the strengths to try next (`further`).

    `why` says why none is usable.
    """

    usable: list[tuple[float, float]]
    further: list[float]
    why: str = ""


def baseline(cells: Sequence[Cell], mode: str) -> Cell:
    """Return the measures of text that is hardly steered, to compare the others with.

    They are medians over the unsteered text, which is the first, and texts at no more than a tenth of the largest
    strength: one text alone may repeat itself, or be about the concept, by chance.
    """
    sizes = [abs((c.strength or 0.0) - _neutral(mode)) for c in cells[1:]]
    most = max(sizes, default=0.0) * _HARDLY
    plain = [cells[0], *(cell for cell, size in zip(cells[1:], sizes, strict=True) if size <= most)]

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if known else None

    return Cell(
        strength=None, text=cells[0].text, concept=middle([c.concept for c in plain]),
        repetition=middle([c.repetition for c in plain]), perplexity=middle([c.perplexity for c in plain]))


def verdict(cells: Sequence[Cell], mode: str) -> Verdict | None:
    """Judge a finished sweep, whose first cell is unsteered; None where nothing was measured."""
    plain = baseline(cells, mode)
    tried = sorted((cell for cell in cells[1:] if _measured(cell)), key=lambda cell: cell.strength or 0.0)
    if not tried or not _measured(plain):
        return None
    ranges: list[tuple[float, float]] = []
    before: Cell | None = None
    for cell in tried:
        strength = cell.strength or 0.0
        if usable(cell, plain):
            joined = before is not None and usable(before, plain) and not _neutral_between(before, cell, mode)
            ranges = [*ranges[:-1], (ranges[-1][0], strength)] if joined else [*ranges, (strength, strength)]
        before = cell
    return Verdict(ranges, []) if ranges else _look_further(tried, plain, mode)


def usable(cell: Cell, plain: Cell) -> bool:
    """Return whether a strength's text shows the concept and still reads well, compared with the `baseline`."""
    return cell.strength is not None and shows_concept(cell, plain) and reads_well(cell, plain)


def shows_concept(cell: Cell, plain: Cell) -> bool:
    """Return whether a larger share of the text's tokens belongs to the concept than of the baseline's."""
    return cell.concept is not None and plain.concept is not None and cell.concept > plain.concept


def reads_well(cell: Cell, plain: Cell) -> bool:
    """Return whether the unsteered model finds the text about as likely, and it repeats itself about as little."""
    if cell.perplexity is None or plain.perplexity is None:
        return False
    repeats = (cell.repetition or 0.0) - (plain.repetition or 0.0)
    return cell.perplexity <= PERPLEXITY_TIMES * plain.perplexity and repeats <= REPETITION_MORE


def _measured(cell: Cell) -> bool:
    return cell.concept is not None and cell.perplexity is not None


def _neutral(mode: str) -> float:
    return 1.0 if mode == "scale" else 0.0


def _neutral_between(low: Cell, high: Cell, mode: str) -> bool:
    return (low.strength or 0.0) < _neutral(mode) < (high.strength or 0.0)


def _look_further(tried: Sequence[Cell], plain: Cell, mode: str) -> Verdict:
    """Choose strengths between the too weak and the too strong ones, on the side that strengthens the latent."""
    neutral = _neutral(mode)
    sizes = {(c.strength or 0.0) - neutral: c for c in tried}
    side = 1.0 if any(size > 0 for size in sizes) else -1.0
    on_side = {size * side: cell for size, cell in sizes.items() if size * side > 0}
    if not on_side:
        return Verdict([], [])
    weak = [size for size, cell in on_side.items() if reads_well(cell, plain)]
    strong = [size for size, cell in on_side.items() if shows_concept(cell, plain)]
    broken = [size for size, cell in on_side.items() if not reads_well(cell, plain)]
    if not broken:
        low, high, why = max(weak), 3 * max(weak), "all are too weak: none shows more of the concept"
    elif not weak:
        low, high, why = min(on_side) / 10, min(on_side), "all are too strong: no text still reads well"
    else:
        low = max((size for size in weak if size < min(broken)), default=min(broken) / 3)
        high = min((size for size in strong if size > low), default=min(broken))
        why = "weaker ones do not show the concept, and stronger ones break the text"
    if high <= _CLOSE * low:
        return Verdict([], [], why)
    step = (high - low) / (_STEPS - 1)
    return Verdict([], _rounded([neutral + side * (low + n * step) for n in range(_STEPS)]), why)


def _rounded(values: Sequence[float]) -> list[float]:
    """Return the strengths with two digits, each once, in order, within what a request takes."""
    return sorted({float(f"{min(max(value, -MAX_STRENGTH), MAX_STRENGTH):.2g}") for value in values})
