"""Corpus text as a page shows it: a row of pieces, each with its heat and what its tooltip says.

Spaces are kept, a newline shows as `↵` and a tab as `→`, whitespace-only pieces have a width,
characters split over tokens are merged (the piece then has its members' largest activation),
control and bidi characters are shown as `⟨0A⟩`-like signs instead of acting.  Escaping is the
template's: a `Piece` holds plain text.
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
# How much of a context a row shows: tokens before and after the peak; None is all that is kept.
WINDOWS: dict[str, tuple[int, int] | None] = {"snippet": (14, 10), "short": (24, 18), "long": (40, 24), "full": None}


class Piece(NamedTuple):
    """One or more tokens shown as one.  `css` is the heat class and `peak`; `title` the tooltip, "" where the
    row's ids stand for it.

    `space` marks a piece of whitespace alone; `breaks` how many newlines follow it (a page may
    break the line there); `start` its first token's index in the row that was given.
    """

    text: str
    css: str
    title: str
    space: bool
    breaks: int
    start: int


@dataclass(frozen=True)
class Row:
    """The tokens `low` to below `high` of a context, coloured in units of `top`.  `numbered` rows carry their token
    ids, for tooltips."""

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
        """Whether text was cut off before it."""
        return (self.context.start or 0) + self.low > 0

    @property
    def after(self) -> bool:
        return self.high < len(self.context.tokens)

    @property
    def at(self) -> int | None:
        """The position of its first token; None: unknown."""
        return None if self.context.start is None else self.context.start + self.low

    @cached_property
    def pieces(self) -> list[Piece]:
        return text_pieces(self.tokens, self.info, self.context.acts[self.low : self.high], self.top, start=self.at,
                           peak=self.context.peak - self.low, every_title=False)

    @property
    def peak(self) -> int:
        """The index of the piece with the peak, so that rows can be lined up at it."""
        return bisect_right(self.pieces, self.context.peak - self.low, key=attrgetter("start")) - 1


def heat_class(value: float, top: float, linear: bool = False) -> str:
    """`a0` … `a15` for an activation in units of `top`, "" where the latent is silent.  Log scale, or linear."""
    if value <= 0 or top <= 0:
        return ""
    share = min(value / top, 1)
    if not linear:
        share = math.log1p(9 * share) / math.log(10)
    return f"a{min(int(share * HEAT_STEPS), HEAT_STEPS - 1)}"


def signed_class(value: float, top: float, steps: int = 8) -> str:
    """`b0` … `b7` (adds, blue) or `o0` … `o7` (takes away, orange), "" for zero.  Linear scale."""
    if value == 0 or top <= 0:
        return ""
    step = min(int(min(abs(value) / top, 1) * steps), steps - 1)
    return f"{'b' if value > 0 else 'o'}{step}"


def visible(text: str) -> str:
    """The text with newlines, tabs and characters that would act instead of show made visible."""
    if text.isprintable():  # as nearly all of it is
        return text
    return "".join(_visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    if c == "\n":
        return "↵"
    if c == "\t":
        return "→"
    if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        # A zero-width joiner belongs to emoji; alone it would be an empty piece.
        return c if c == "\u200d" else f"⟨{ord(c):02X}⟩"
    return c


def token_text(token: Token) -> str:
    """One vocabulary entry alone, for lists: visible, a bytes-only piece as `⟨E2 80⟩`."""
    if not token.piece:
        return f"⟨{token.token}⟩"
    return visible("".join(span.text for span in spans([token.piece])))


@lru_cache(maxsize=1 << 17)
def token_label(token: Token) -> str:
    """As `token_text`, with outer spaces shown as `·`, so that ` the` and `the` differ in a table."""
    text = token_text(token)
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
    """The pieces of a row of tokens coloured by `values` (0: no colour), `start` its first position (None: unknown).

    Without `every_title` only what has a colour has a tooltip.
    """
    out = []
    i, n, marked = 0, len(tokens), -1 if peak is None else peak
    while i < n:
        token, value, end = tokens[i], values[i], i + 1
        piece = info[token].piece
        said = whole(piece) if piece else (f"⟨{token}⟩", False, 0)
        if said is None:
            span = spans([info[t].piece or f"⟨{t}⟩".encode() for t in tokens[i : i + MAX_SPAN]])[0]
            said, end = _said(span.text), i + span.end
            value = max(values[i:end])
        css = heat_class(value, top, linear) if value > 0 else ""
        if i <= marked < end:
            css = f"{css} peak".strip()
        title = _title(tokens, info, values, range(i, end), start, unit, digits) if css or every_title else ""
        out.append(Piece(said[0], css, title, said[1], said[2], i))
        i = end
    return out


@lru_cache(maxsize=1 << 17)  # about a vocabulary: pages show the same tokens again and again
def whole(piece: bytes) -> tuple[str, bool, int] | None:
    """What a token that is whole characters shows as; None for a part of one."""
    try:
        return _said(piece.decode())
    except UnicodeDecodeError:
        return None


def _said(text: str) -> tuple[str, bool, int]:
    """The visible text, whether it is whitespace alone, and its newlines."""
    return visible(text), not text.strip(), text.count("\n")


def _title(
    tokens: Sequence[int], info: Mapping[int, Token], values: Sequence[float], members: range, start: int | None,
    unit: str, digits: int,
) -> str:
    return "\n".join([
        token_title(info[tokens[i]], values[i], None if start is None else start + i, unit, digits) for i in members])


def token_title(token: Token, value: float, position: int | None, unit: str = "", digits: int = 4) -> str:
    """The tooltip of one token of a row."""
    said = f"“{token_label(token)}”"
    if token.n is not None:
        said += f" id {token.token}"
    if position is not None:
        said += f" · position {position}"
    return f"{value:.{digits}f}{unit} · {said}" if value > 0 else said


def context_row(context: Context, info: Mapping[int, Token], top: float, window: str = "short") -> Row:
    """A context cut to `window` around its peak and coloured in units of `top`."""
    n, around = len(context.tokens), WINDOWS[window]
    low, high = (0, n) if around is None else (
        max(0, context.peak - around[0]), min(n, context.peak + around[1] + 1))
    return Row(context, info, top, low, high, numbered=window != "snippet")
