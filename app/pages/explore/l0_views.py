"""Parts of the page of latents per token: which tokens need many, at which positions, in which text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from app.db.tables import Sae
from app.library.catalog import Catalog
from app.render import charts
from app.render.axis import edge_text, tick_text
from app.render.token_text import Piece, Row, context_row, text_pieces, token_label
from sae.store.build import Build
from sae.store.records import L0Count, L0Token, Sample

MOST_OTHERS = 3  # overlaid SAEs; more outlines cannot be distinguished


@dataclass(frozen=True)
class SampleView:
    """A context shaded by L0, and the same text under another SAE if that has it."""

    sample: Sample
    pieces: list[Piece]
    other: list[Piece]

    @property
    def mean(self) -> float:
        """Return the mean latents per token without BOS."""
        l0 = self.sample.l0[1:]
        return sum(l0) / max(len(l0), 1)


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


def counterparts(catalog: Catalog, sae: Sae, wanted: Sequence[str]) -> list[Sae]:
    """Return the SAEs to overlay: the `wanted` ones, else one of another architecture at the same site.

    Of several the one with the nearest k is taken, then the newest.  An empty name asks for none.
    """
    peers = peers_of(catalog, sae)
    if wanted:
        return [other for other in peers if other.id in wanted][:MOST_OTHERS]
    others = [other for other in peers if other.architecture != sae.architecture]
    return sorted(others, key=lambda other: (abs((other.k or 0) - (sae.k or 0)), -other.created))[:1]


def peers_of(catalog: Catalog, sae: Sae) -> list[Sae]:
    """Return the other SAEs of the same model and site that have a build."""
    return [o for o in catalog.list_saes()
            if o.id != sae.id and (o.model, o.hook) == (sae.model, sae.hook) and o.current_build]


def mean_and_spread(rows: Sequence[L0Count]) -> tuple[float, float]:
    """Return the mean and the standard deviation of L0 over counted tokens."""
    total = sum(row.n for row in rows) or 1
    mean = sum(row.l0 * row.n for row in rows) / total
    return mean, float((sum(row.n * (row.l0 - mean) ** 2 for row in rows) / total) ** 0.5)


def position_chart(builds: Mapping[str, Build]) -> Markup:
    """Draw the mean L0 by position for builds by name, without BOS (position 0), which would dwarf the rest."""
    series = []
    for name, one in builds.items():
        rows = [row for row in one.l0_positions() if row.position > 0]
        series.append(charts.Series(name, [(row.position, row.mean) for row in rows]))
    return charts.line_chart(
        series, title="Mean latents per token by position", x_label="position in the context", y_label="mean L0",
        zero=True, width=420, height=260, x_format=tick_text)


def fvu_chart(builds: Mapping[str, Build]) -> Markup | None:
    """Draw FVU by position; None if no build has it."""
    series = []
    for name, one in builds.items():
        points = [(row.position, row.fvu) for row in one.l0_positions() if row.position > 0 and row.fvu is not None]
        if points:
            series.append(charts.Series(name, points))
    return charts.line_chart(
        series, title="FVU by position, index's text", x_label="position in the context",
        y_label="variance unexplained", zero=True, width=560, height=220, x_format=tick_text) if series else None


def by_density_chart(build: Build) -> Markup:
    """Draw how much of the mean L0 comes from latents of which density."""
    bars = [charts.Bar(low, high, l0) for low, high, l0 in build.kept(Build.firings_by_density)]
    return charts.histogram(bars, charts.Frame(
        "Active latents by density", "density of the latent", "latents per token", 560, 220, log_x=True,
        y_format=edge_text))


def extremes(build: Build, limit: int = 12) -> tuple[list[TokenL0], list[TokenL0]]:
    """Return the tokens that need most and fewest latents, among those that are frequent enough."""
    least = max(20, int(build.meta["tokens"]) // 20_000)
    most, fewest = build.l0_tokens(True, least, limit), build.l0_tokens(False, least, limit)
    info = build.vocabulary
    top = max((row.mean for row in most), default=1.0) or 1.0

    def lines(rows: Sequence[L0Token]) -> list[TokenL0]:
        return [TokenL0(r.token, token_label(info[r.token]), r.n, r.mean, r.mean / top) for r in rows]

    return lines(most), lines(fewest)


@dataclass(frozen=True)
class Samples:
    """The sample contexts of a build, and by context the samples of another build with the same texts."""

    build: Build
    rows: list[Sample]
    theirs: dict[int, Sample]

    @classmethod
    def read(cls, build: Build, other: Build | None = None) -> Samples:
        """Read all samples, once for the whole page."""
        return cls(build, build.samples(), {row.ctx: row for row in other.samples()} if other else {})

    def count(self, kind: str) -> int:
        """Return the number of samples of a kind (`Sample.kind`)."""
        return sum(row.kind == kind for row in self.rows)

    def texts(self, kind: str, limit: int | None = None) -> list[SampleView]:
        """Return the first `limit` contexts of a kind as text, coloured in units of their highest L0."""
        rows = [row for row in self.rows if row.kind == kind][:limit]
        pairs = [(row, self.theirs.get(row.ctx)) for row in rows]
        pairs = [(row, match if match and match.tokens == row.tokens else None) for row, match in pairs]
        top = float(max((l0 for row, match in pairs for l0 in [*row.l0, *(match.l0 if match else [])]), default=1))
        return [SampleView(row, self._pieces(row, top), self._pieces(match, top)) for row, match in pairs]

    def _pieces(self, row: Sample | None, top: float) -> list[Piece]:
        if row is None:
            return []
        return text_pieces(row.tokens, self.build.vocabulary, row.l0, top, unit=" latents", digits=0, linear=True)


def firings(build: Build, sample: int, position: int, label_of: dict[int, str]) -> list[Firing]:
    """Return the latents at one position of a sample, the strongest first."""
    found = build.sample_latents(sample, position)
    snippets = build.snippets(latent for latent, _ in found)
    info = build.vocabulary
    top = max((act for _, act in found), default=1.0)
    return [
        Firing(
            latent, act, act / top,
            context_row(snippets[latent], info, snippets[latent].act, "snippet") if latent in snippets else None,
            label_of.get(latent, ""))
        for latent, act in found]


def bos_words(bos_l0: int | None, k: int | None, first: str = "BOS") -> str:
    """Return a sentence about the L0 of the first position; "" if the build does not know it."""
    if bos_l0 is None:
        return ""
    if first != "BOS":
        return f"{first.capitalize()} of a context, without BOS before it: most often {bos_l0} latents."
    if k is None or bos_l0 < k:
        return f"BOS: {bos_l0} latents (it is always the same, so few suffice)."
    if bos_l0 == k:
        return f"BOS: {bos_l0} latents, exactly k like every other token."
    return f"BOS: {bos_l0} latents (its activation is unusual and large, as an attention sink, so it takes many)."
