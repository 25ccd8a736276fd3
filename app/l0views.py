"""The page of latents per token: who needs many, where, and in which text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app import charts
from app.catalog import Catalog
from app.models import Sae
from app.tokens_view import Piece, Row, context_row, text_pieces, token_label
from sae.records import L0Token, Sample
from sae.store import Build


@dataclass(frozen=True)
class SampleView:
    """A sample context, shaded by L0, and the same text under another SAE if it has it."""

    sample: Sample
    pieces: list[Piece]
    other: list[Piece]


@dataclass(frozen=True)
class TokenL0:
    """A token with its mean L0, for the lists of extremes."""

    token: int
    label: str
    n: int
    mean: float
    share: float


@dataclass(frozen=True)
class Firing:
    """One latent that is active at the chosen position."""

    latent: int
    act: float
    share: float
    snippet: Row | None
    label: str


def counterpart(catalog: Catalog, sae: Sae, wanted: str | None) -> Sae | None:
    """The SAE to lay beside this one: the one asked for, else the other architecture at the same site.

    Of several the one whose k is nearest, then the newest.
    """
    peers = [other for other in peers_of(catalog, sae) if other.current_build]
    if wanted is not None:
        return next((other for other in peers if other.id == wanted), None)
    others = [other for other in peers if other.architecture != sae.architecture]
    return min(others, key=lambda other: (abs((other.k or 0) - (sae.k or 0)), -other.created), default=None)


def peers_of(catalog: Catalog, sae: Sae) -> list[Sae]:
    """The other SAEs of the same model and site."""
    return [o for o in catalog.list_saes() if o.id != sae.id and (o.model, o.hook) == (sae.model, sae.hook)]


def position_chart(build: Build, other: Build | None, names: Sequence[str]) -> Markup:
    """Mean L0 by position, BOS (position 0) left to the words: it would dwarf the rest."""
    series = []
    for name, one in zip(names, [build, *([other] if other else [])], strict=False):
        rows = [row for row in one.l0_positions() if row.position > 0]
        series.append(charts.Series(name, [(row.position, row.mean) for row in rows]))
    return charts.line_chart(
        series, title="Mean latents per token by position", x_label="position in the context", y_label="mean L0",
        zero=True, width=420, height=260, x_format=charts.tick_text)


def fvu_chart(build: Build, other: Build | None, names: Sequence[str]) -> Markup | None:
    """FVU by position; None where the build does not know it."""
    series = []
    for name, one in zip(names, [build, *([other] if other else [])], strict=False):
        points = [(row.position, row.fvu) for row in one.l0_positions() if row.position > 0 and row.fvu is not None]
        if points:
            series.append(charts.Series(name, points))
    return charts.line_chart(
        series, title="FVU by position", x_label="position in the context", y_label="variance unexplained", zero=True,
        width=420, height=220, x_format=charts.tick_text) if series else None


def by_density_chart(build: Build) -> Markup:
    """How much of the mean L0 comes from latents of which density."""
    bars = [charts.Bar(low, high, l0) for low, high, l0 in build.firings_by_density()]
    return charts.histogram(
        bars, title="Where the latents of a token come from", x_label="density of the latent",
        y_label="latents per token", log_x=True, width=420, height=220, y_format=lambda value: f"{value:.3g}")


def extremes(build: Build, limit: int = 12) -> tuple[list[TokenL0], list[TokenL0]]:
    """Tokens that need most and fewest latents, among those frequent enough to say so."""
    least = max(20, int(build.meta["tokens"]) // 20_000)
    most, fewest = build.l0_tokens(True, least, limit), build.l0_tokens(False, least, limit)
    info = build.token_info(row.token for row in [*most, *fewest])
    top = max((row.mean for row in most), default=1.0) or 1.0

    def lines(rows: Sequence[L0Token]) -> list[TokenL0]:
        return [TokenL0(r.token, token_label(info[r.token]), r.n, r.mean, r.mean / top) for r in rows]

    return lines(most), lines(fewest)


def samples(build: Build, other: Build | None, limit: int | None) -> list[SampleView]:
    """The first `limit` sample contexts as text; colours are in units of the highest L0 on the page."""
    rows = build.samples()[:limit]
    theirs = {row.ctx: row for row in other.samples()} if other else {}
    pairs = [(row, theirs.get(row.ctx)) for row in rows]
    pairs = [(row, match if match and match.tokens == row.tokens else None) for row, match in pairs]
    top = float(max((l0 for row, match in pairs for l0 in [*row.l0, *(match.l0 if match else [])]), default=1))
    info = build.token_info(t for row in rows for t in row.tokens)

    def pieces(row: Sample | None) -> list[Piece]:
        if row is None:
            return []
        return text_pieces(row.tokens, info, row.l0, top, unit=" latents", digits=0, linear=True)

    return [SampleView(row, pieces(row), pieces(match)) for row, match in pairs]


def firings(build: Build, sample: int, position: int, label_of: dict[int, str]) -> list[Firing]:
    """The latents at one position of a sample as bars, strongest first."""
    found = build.sample_latents(sample, position)
    snippets = build.snippets(latent for latent, _ in found)
    info = build.token_info(t for context in snippets.values() for t in context.tokens)
    top = max((act for _, act in found), default=1.0)
    return [
        Firing(
            latent, act, act / top,
            context_row(snippets[latent], info, snippets[latent].act, "snippet") if latent in snippets else None,
            label_of.get(latent, ""))
        for latent, act in found]


def bos_words(bos_l0: int | None, k: int | None) -> str:
    """What the BOS peak means, in a sentence."""
    if bos_l0 is None:
        return ""
    if k is None or bos_l0 < k:
        return f"BOS: {bos_l0} latents; it says nothing, so it needs few."
    if bos_l0 == k:
        return f"BOS: {bos_l0} latents, exactly k, as every token here."
    return f"BOS: {bos_l0} latents; a token of its own kind (an attention sink), and large, so it takes many."
