"""Corpus text as a page shows it: a row of pieces, each with its heat class and its tooltip.

Spaces are kept.  A newline shows as `↵` and a tab as `→`, and whitespace-only pieces have a width.
A character that is split over tokens is one piece with its tokens' largest activation.
Control and bidi characters have no effect and show as signs like `⟨0A⟩`.  A `Piece` holds plain text,
which the template escapes.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import NamedTuple

from sae.lm.tokens import MAX_SPAN, spans
from sae.store.records import Context, Token

HEAT_STEPS = 16
# The number of tokens that a row shows before and after the peak; None means all stored tokens.
WINDOWS: dict[str, tuple[int, int] | None] = {"snippet": (14, 10), "short": (24, 18), "long": (40, 24), "full": None}


class Piece(NamedTuple):
    """One or more tokens that are shown as one.

    `css` is the heat class and `peak`; `title` is the tooltip, or "" if the browser makes it from the row's ids.
    `space` marks a piece of whitespace only.  `breaks` is its number of newlines, where a page may
    break the line.  `start` is the index of its first token in the row.
    """

    text: str
    css: str
    title: str
    space: bool
    breaks: int
    start: int


@dataclass(frozen=True)
class Row:
    """The tokens `low` to `high` (exclusive) of a context, coloured in units of `top`.

    A `numbered` row has its token ids, for tooltips.
    """

    context: Context
    info: Mapping[int, Token]
    top: float
    low: int
    high: int
    numbered: bool

    @property
    def tokens(self) -> list[int]:
        return self.context.tokens[self.low : self.high]

    @property
    def before(self) -> bool:
        """Return whether text was cut off before the row."""
        return (self.context.start or 0) + self.low > 0

    @property
    def after(self) -> bool:
        return self.high < len(self.context.tokens)

    @property
    def at(self) -> int | None:
        """Return the position of the row's first token, or None if it is unknown."""
        return None if self.context.start is None else self.context.start + self.low

    @cached_property
    def pieces(self) -> list[Piece]:
        return text_pieces(self.tokens, self.info, self.context.acts[self.low : self.high], self.top, start=self.at,
                           peak=self.context.peak - self.low, every_title=False)

    @property
    def peak(self) -> int:
        """Return the index of the piece with the peak, at which rows are aligned."""
        return bisect_right(self.pieces, self.context.peak - self.low, key=attrgetter("start")) - 1


def heat_class(value: float, top: float, linear: bool = False) -> str:
    """Return the class `a0` … `a15` of an activation in units of `top`, on a log or linear scale; "" for none."""
    if value <= 0 or top <= 0:
        return ""
    share = min(value / top, 1)
    if not linear:
        share = math.log1p(9 * share) / math.log(10)
    return f"a{min(int(share * HEAT_STEPS), HEAT_STEPS - 1)}"


def signed_class(value: float, top: float, steps: int = 8) -> str:
    """Return the class `b0` … `b7` (positive, blue) or `o0` … `o7` (negative, orange), or "" for zero.

    The scale is linear.
    """
    if value == 0 or top <= 0:
        return ""
    step = min(int(min(abs(value) / top, 1) * steps), steps - 1)
    return f"{'b' if value > 0 else 'o'}{step}"


def visible(text: str) -> str:
    """Return the text with newlines, tabs and control characters made visible."""
    if text.isprintable():  # nearly all text is
        return text
    return "".join(_visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c == "\n":
        return "↵"
    if c == "\t":
        return "→"
    if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        # A zero-width joiner is part of emoji and must stay.
        return c if c == "\u200d" else f"⟨{ord(c):02X}⟩"
    return c


def token_text(token: Token) -> str:
    """Return one vocabulary entry for lists, made visible; a part of a character shows as `⟨E2 80⟩`."""
    if not token.piece:
        return f"⟨{token.token}⟩"
    return visible("".join(span.text for span in spans([token.piece])))


@lru_cache(maxsize=1 << 17)
def token_label(token: Token) -> str:
    """Return `token_text` with outer spaces shown as `·`, so that ` the` and `the` differ in a table."""
    return dotted(token_text(token))


def dotted(text: str) -> str:
    """Return a text with outer spaces shown as `·`."""
    lead, trail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if lead == len(text):
        return _dots(lead)
    return _dots(lead) + text.strip(" ") + _dots(trail)


def _dots(n: int) -> str:
    return "·" * n if n <= 3 else f"·×{n}"


def text_pieces(
    tokens: Sequence[int], info: Mapping[int, Token], values: Sequence[float], top: float, *,
    start: int | None = 0, peak: int | None = None, unit: str = "", digits: int = 4, linear: bool = False,
    every_title: bool = True,
) -> list[Piece]:
    """Return the pieces of a row of tokens, coloured by `values` (0: no colour).

    `start` is the row's first position (None: unknown).  Without `every_title`, only coloured pieces have a tooltip.
    """
    out = []
    i, n, marked = 0, len(tokens), -1 if peak is None else peak
    while i < n:
        token, value, end = tokens[i], values[i], i + 1
        piece = info[token].piece
        shown = whole(piece) if piece else (f"⟨{token}⟩", False, 0)
        if shown is None:
            span = spans([info[t].piece or f"⟨{t}⟩".encode() for t in tokens[i : i + MAX_SPAN]])[0]
            shown, end = _shown(span.text), i + span.end
            value = max(values[i:end])
        css = heat_class(value, top, linear) if value > 0 else ""
        if i <= marked < end:
            css = f"{css} peak".strip()
        title = _title(tokens, info, values, range(i, end), start, unit, digits) if css or every_title else ""
        out.append(Piece(shown[0], css, title, shown[1], shown[2], i))
        i = end
    return out


@lru_cache(maxsize=1 << 17)  # about a vocabulary, because pages show the same tokens again and again
def whole(piece: bytes) -> tuple[str, bool, int] | None:
    """Return `_shown` of a token that consists of whole characters, and None for a part of a character."""
    try:
        return _shown(piece.decode())
    except UnicodeDecodeError:
        return None


def _shown(text: str) -> tuple[str, bool, int]:
    """Return the visible text, whether it is only whitespace, and its number of newlines."""
    return visible(text), not text.strip(), text.count("\n")


def _title(
    tokens: Sequence[int], info: Mapping[int, Token], values: Sequence[float], members: range, start: int | None,
    unit: str, digits: int,
) -> str:
    return "\n".join([
        token_title(info[tokens[i]], values[i], None if start is None else start + i, unit, digits) for i in members])


def token_title(token: Token, value: float, position: int | None, unit: str = "", digits: int = 4) -> str:
    """Return the tooltip of one token of a row."""
    title = f"“{token_label(token)}”"
    if token.n is not None:
        title += f" id {token.token}"
    if position is not None:
        title += f" · position {position}"
    return f"{value:.{digits}f}{unit} · {title}" if value > 0 else title


def context_row(context: Context, info: Mapping[int, Token], top: float, window: str = "short") -> Row:
    """Return a context cut to `window` around its peak and coloured in units of `top`."""
    n, around = len(context.tokens), WINDOWS[window]
    low, high = (0, n) if around is None else (
        max(0, context.peak - around[0]), min(n, context.peak + around[1] + 1))
    return Row(context, info, top, low, high, numbered=window != "snippet")
