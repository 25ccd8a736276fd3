"""Numbers as people read them: with their unit, and with no more digits than are meaningful.

All functions take None (and NaN) and return "–" for it, so that a page never shows "None".  Negative numbers have the
minus sign U+2212, which is as wide as "+" and never breaks a line.
"""

from __future__ import annotations

import math
import time
from functools import lru_cache

NOTHING = "–"
MINUS = "\u2212"
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def minus(text: str) -> str:
    """Replace the hyphens of a written number by minus signs."""
    return text.replace("-", MINUS)


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


@lru_cache(maxsize=4096)  # a chart writes the same few counts again and again
def compact(value: float | None) -> str:
    """Write a count in few digits: 950, 8.3 k, 1.2 M."""
    if value is None or _missing(value):
        return NOTHING
    size = abs(value)
    for scale, letter in _SCALES:
        if size >= scale * 0.9995:
            return f"{_short(value / scale)} {letter}"
    return minus(f"{value:.0f}") if float(value).is_integer() else _short(value)


def _short(value: float) -> str:
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
    return minus(text.removesuffix(".0"))


def whole(value: float | None) -> str:
    """Write a count in full with thousands apart: 8,300."""
    return NOTHING if value is None or _missing(value) else minus(f"{value:,.0f}")


def number(value: float | None, digits: int = 2) -> str:
    """Write a measured number with `digits` decimals; very small ones in powers of ten."""
    if value is None or _missing(value):
        return NOTHING
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return _in_powers(value)
    return minus(f"{value:,.{digits}f}")


def signed(value: float | None, digits: int = 2) -> str:
    """Write a difference with its sign, even if it is positive: +0.54, −4.00."""
    text = number(value, digits)
    return text if value is None or _missing(value) or value < 0 else f"+{text}"


def _in_powers(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return minus(f"{mantissa}e{int(exponent)}")


def fixed(value: float | None, digits: int = 1) -> str:
    """Write exactly `digits` decimals, however small the number is: for columns that are read down."""
    if value is None or _missing(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else minus(text)  # no "−0.0"


def percent(share: float | None) -> str:
    """Write a share of 1 as a percentage with two significant digits: 0.012%, 4.2%, 37%."""
    if share is None or _missing(share):
        return NOTHING
    if share == 0:
        return "0%"
    value = 100 * share
    if 99.5 <= value < 100:  # nearly all is not all
        return f"{value:.1f}%" if value < 99.95 else ">99.9%"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return minus(f"{value:.{min(digits, 8)}f}%")


def density(share: float | None) -> str:
    """Write how often a latent fires, in both forms: "0.012% · 1 in 8,300 tokens"."""
    if share is None or _missing(share):
        return NOTHING
    if share <= 0:
        return "never"
    return f"{percent(share)} · {one_in(share)} tokens"


def one_in(share: float | None) -> str:
    """Write a share as "1 in 8,300", the second number to two significant digits."""
    if share is None or _missing(share) or share < 1e-300:  # its inverse may be beyond every number
        return NOTHING
    every = 1 / share
    if every < 10:
        return f"1 in {every:.1f}".removesuffix(".0")
    unit = 10 ** (math.floor(math.log10(every)) - 1)
    return f"1 in {round(every / unit) * unit:,}"


def duration(seconds: float | None) -> str:
    """Write a time span: 0.4 s, 12 s, 3 min 10 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None or _missing(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{_short(max(seconds, 0))} s"
    whole_s = round(seconds)
    for size, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole_s >= size:
            rest = whole_s % size // below
            return f"{whole_s // size} {unit} {rest} {lower}" if rest else f"{whole_s // size} {unit}"
    return f"{whole_s} s"


def size(n_bytes: float | None) -> str:
    """Write bytes in decimal units: 512 B, 8.4 kB, 1.2 GB."""
    if n_bytes is None or _missing(n_bytes):
        return NOTHING
    for scale, letter in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= scale * 0.9995:
            return f"{_short(n_bytes / scale)} {letter}"
    return f"{n_bytes:.0f} B"


def moment(unix_time: float | None) -> str:
    """Write a moment in UTC, to the minute: 2026-11-21 04:45 UTC."""
    if unix_time is None or _missing(unix_time):
        return NOTHING
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_time))


FILTERS = {
    "compact": compact, "whole": whole, "number": number, "signed": signed, "fixed": fixed, "percent": percent,
    "density": density, "one_in": one_in, "duration": duration, "bytes": size, "moment": moment, "minus": minus,
}
