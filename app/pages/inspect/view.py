"""The prompt inspector's numbers: a text's tokens with their L0, and its latents by strength or surprise.

A latent's *surprise* in a text says how unlikely so many firings are at its density.  With `n` firings on `T` counted
tokens and density `p` it is T·KL(n/T ‖ p) in bits, and 0 where it fires no more often than usual.  2 to the minus
surprise bounds the probability of `n` or more firings among T independent tokens (Chernoff).  So a dense latent that
fires as often as usual has no surprise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from app.pages.find.active import surprise
from app.render.token_text import Piece, Row, context_row, text_pieces
from sae.store.build import Build
from sae.store.records import DENSE_DENSITY, Token

MEASURES = {
    "max": "its strongest activation in the text",
    "sum": "the sum of its activations over the text",
    "surprise": "how unlikely so many firings are for a latent of its density, in bits",
}
ROWS_SHOWN = 50
TOKEN_ROWS_SHOWN = 64


@dataclass(frozen=True)
class Counted:
    """A latent over a text's tokens that are not special: firings, maximum, its position, sum."""

    latent: int
    n: int
    max: float
    peak: int
    sum: float


@dataclass(frozen=True)
class Reading:
    """A text as one SAE reads it.

    `firings[i]` are the strongest (latent, activation) at position i, strongest first, and may be
    fewer than `l0[i]`; `counted` has every latent.  `windows` are the positions where the model starts a new window.
    """

    ids: list[int]
    pieces: list[bytes]
    special: list[bool]
    l0: list[int]
    firings: list[list[tuple[int, float]]]
    counted: list[Counted]
    windows: frozenset[int] = frozenset()

    def length(self, special: bool = False) -> int:
        """Return the number of tokens that count."""
        return sum(special or not is_special for is_special in self.special)

    def activations(self, latent: int) -> list[float]:
        """Return the latent's activation at every position."""
        return [next((act for number, act in row if number == latent), 0.0) for row in self.firings]


@dataclass(frozen=True)
class TextLatent:
    """A latent in a text: how often, how strongly, where most (`peak`, a position), and how surprisingly."""

    latent: int
    n: int
    max: float
    sum: float
    peak: int
    density: float
    max_act: float
    surprise: float

    def value(self, measure: str) -> float:
        return {"max": self.max, "sum": self.sum, "surprise": self.surprise}[measure]

    @property
    def dense(self) -> bool:
        return self.density > DENSE_DENSITY


def text_latents(reading: Reading, build: Build, special: bool = False) -> list[TextLatent]:
    """Return every latent that fires on the text's counted tokens, by number.

    One that never fired in the build counts as if it had on half a token there.
    """
    found = {row.latent: row for row in reading.counted}
    for position in (i for i, is_special in enumerate(reading.special) if special and is_special):
        for latent, act in reading.firings[position]:
            found[latent] = _with(found.get(latent), Counted(latent, 1, act, position, act))
    total, known, least = reading.length(special), build.firing_rates, 0.5 / max(float(build.meta["tokens"]), 1.0)
    out = []
    for latent, row in sorted(found.items()):
        density, max_act = known.get(latent, (0.0, 0.0))
        out.append(TextLatent(
            latent, row.n, row.max, row.sum, row.peak, density, max_act,
            surprise(row.n, total, max(density, least))))
    return out


def _with(row: Counted | None, one: Counted) -> Counted:
    if row is None:
        return one
    peak = one.peak if one.max > row.max else row.peak
    return Counted(row.latent, row.n + one.n, max(row.max, one.max), peak, row.sum + one.sum)


def ranked(latents: Sequence[TextLatent], measure: str, dense: bool = True) -> list[TextLatent]:
    """Return the latents by a measure of `MEASURES`, largest first; `dense=False` removes dense ones."""
    kept = [row for row in latents if dense or not row.dense]
    return sorted(kept, key=lambda row: (-row.value(measure), -row.max, row.latent))


@dataclass(frozen=True)
class Difference:
    """A latent in two texts; None where it is silent.  `value` is the first text's measure minus the second's."""

    latent: int
    first: TextLatent | None
    second: TextLatent | None
    value: float

    @property
    def known(self) -> TextLatent:
        found = self.first or self.second
        assert found is not None
        return found


def differences(
    first: Sequence[TextLatent], second: Sequence[TextLatent], measure: str, lengths: tuple[int, int],
    dense: bool = True,
) -> list[Difference]:
    """Return the latents of two texts, the most different first.

    Sums are divided by the texts' `lengths` (counted tokens), so that a longer text has no more of everything.
    """
    scales = [1 / max(n, 1) if measure == "sum" else 1.0 for n in lengths]
    ours, theirs = {row.latent: row for row in first}, {row.latent: row for row in second}
    out = []
    for latent in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(latent), theirs.get(latent)
        value = (a.value(measure) * scales[0] if a else 0.0) - (b.value(measure) * scales[1] if b else 0.0)
        out.append(Difference(latent, a, b, value))
    kept = [row for row in out if dense or not row.known.dense]
    return sorted(kept, key=lambda row: (-abs(row.value), row.latent))


# ---- as the page shows it


@dataclass(frozen=True)
class Cell:
    """A piece of the text, the largest L0 of its tokens, its first token's position, and whether the
    model started a new window at it."""

    piece: Piece
    l0: int
    position: int
    starts: bool

    @property
    def line_end(self) -> str:
        """The piece up to its last line break."""
        return self.piece.text[: len(self.piece.text) - len(self.indent)]

    @property
    def indent(self) -> str:
        """The part of the piece that belongs to the next line."""
        return self.piece.text.rpartition("↵")[2] if self.piece.breaks else ""


def cells(reading: Reading, top_l0: int, latent: int | None = None, max_act: float = 0.0) -> list[Cell]:
    """Return the text, shaded by L0 in units of `top_l0`, or by one latent's activation in units of its maximum."""
    info = {i: Token(i, piece, special, 0)
            for i, piece, special in zip(reading.ids, reading.pieces, reading.special, strict=True)}
    if latent is None:
        pieces = text_pieces(reading.ids, info, [float(n) for n in reading.l0], float(top_l0), unit=" latents",
                             digits=0, linear=True)
    else:
        acts = reading.activations(latent)
        pieces = text_pieces(reading.ids, info, acts, max(max_act, *acts, 0.0))
    ends = [piece.start for piece in pieces[1:]] + [len(reading.ids)]
    return [Cell(piece, max(reading.l0[piece.start : end]), piece.start, piece.start in reading.windows)
            for piece, end in zip(pieces, ends, strict=True)]


@dataclass(frozen=True)
class LatentBar:
    """A latent with a bar: its activation, the bar's share, its strongest context."""

    latent: int
    act: float
    share: float
    density: float
    snippet: Row | None
    label: str

    @property
    def dense(self) -> bool:
        return self.density > DENSE_DENSITY


def token_bars(
    reading: Reading, position: int, build: Build, labels: Mapping[int, str], dense: bool = True,
) -> list[LatentBar]:
    """Return the latents at one position, strongest first."""
    known = build.firing_rates
    found = [(i, act) for i, act in reading.firings[position]
             if dense or known.get(i, (0.0, 0.0))[0] <= DENSE_DENSITY][:TOKEN_ROWS_SHOWN]
    snippets = snippet_rows(build, [latent for latent, _ in found])
    top = max((act for _, act in found), default=1.0)
    return [LatentBar(i, act, act / top, known.get(i, (0.0, 0.0))[0], snippets.get(i), labels.get(i, ""))
            for i, act in found]


def snippet_rows(build: Build, latents: Collection[int]) -> dict[int, Row]:
    """Return the strongest context of each latent, as a line with its peak in the middle."""
    contexts = build.snippets(latents)
    info = build.vocabulary
    return {i: context_row(context, info, context.act, "snippet") for i, context in contexts.items()}
