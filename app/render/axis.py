"""Axes of charts: the scale from values to positions, and the ticks."""

from __future__ import annotations

import math
from functools import lru_cache

from app.render.numbers import compact, minus


class Axis:
    """A linear or log10 scale from values to positions between `start` and `end`."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        if log:
            low = low if low > 0 else 1e-12
            high = high if high > low else low * 10
        elif high - low <= 1e-9 * abs(low):  # one value, or too close for steps between
            high = low + (abs(low) or 1)
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log
        self._length = math.log(high / low) if log else high - low

    def __call__(self, value: float) -> float:
        far = math.log(max(value, self.low) / self.low) if self.log else value - self.low
        return round(self.start + min(far / self._length, 1.0) * (self.end - self.start), 2)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values inside the axis: powers of ten on a long log axis, else steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last - first >= 2:
                return [10.0**e for e in range(first, last + 1, max(1, math.ceil((last - first + 1) / wanted)))]
            marks = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
            inside = [m for m in marks if self.low * 0.999999 <= m <= self.high * 1.000001]
            return inside or [self.low, self.high]
        raw = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step_size = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
        first_tick = math.ceil(self.low / step_size - 1e-9)
        last_tick = math.floor(self.high / step_size + 1e-9)
        return [i * step_size for i in range(first_tick, last_tick + 1)]


@lru_cache(maxsize=4096)  # all latents of a build share the bins of their histograms
def tick_text(value: float) -> str:
    """Write a tick: compact from 10,000, powers of ten below 1e-3, else as few digits as needed."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return compact(value)
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return minus(f"{mantissa}e{int(exponent)}")
    return minus(f"{value:,.6g}")


@lru_cache(maxsize=4096)
def edge_text(value: float) -> str:
    """Write the edge of a bin: whole numbers in full, others with three significant digits."""
    if float(value).is_integer() or not 1e-3 <= abs(value) < 1000:
        return tick_text(value)
    return minus(f"{value:.3g}")
