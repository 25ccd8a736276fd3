"""Parts of the page of two compared SAEs, from the comparison and both builds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from markupsafe import Markup

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.latent_names import rule_names
from app.pages.explore.latent_views import snippet
from app.render import charts
from app.render.numbers import percent
from app.render.token_text import Row
from sae.errors import UserError
from sae.store.comparison import PARTNER_COSINE, Comparison, Match, Split


@dataclass(frozen=True)
class LatentCell:
    """A latent in a cell of the table: its number, strongest context and name."""

    latent: int
    snippet: Row | None
    label: str


@dataclass(frozen=True)
class PairLine:
    """A latent, the nearest one in the other SAE, and the best match by firing where that is a third one."""

    match: Match
    mine: LatentCell
    nearest: LatentCell
    best_match: LatentCell | None


@dataclass(frozen=True)
class SplitLine:
    """A coarse latent and the finer latents of the other SAE that are nearest to it, with their cosines."""

    coarse: LatentCell
    pieces: list[tuple[LatentCell, float]]


class Sides:
    """Both SAEs of a page: `mine`, whose latents are listed, and `other`, with their contexts and names."""

    def __init__(self, mine: Sae, other: Sae, builds: Builds, names: dict[str, dict[int, str]]) -> None:
        self.mine, self.other, self._builds, self._names = mine, other, builds, names

    def cells(self, sae: Sae, latents: Iterable[int]) -> dict[int, LatentCell]:
        """Return cells of these latents of one of the two; without a build there are no contexts."""
        wanted = sorted(set(latents))
        rows: dict[int, Row | None] = {}
        names: dict[int, str] = {}
        with ExitStack() as stack:
            try:
                build = stack.enter_context(self._builds.use(sae.id, str(sae.current_build)))
            except UserError:
                build = None
            if build is not None:
                contexts = build.snippets(wanted)
                info = build.vocabulary
                names = rule_names(build, wanted)
                rows = {latent: snippet(contexts.get(latent), info) for latent in wanted}
        names |= self._names.get(sae.id, {})
        return {latent: LatentCell(latent, rows.get(latent), names.get(latent, "")) for latent in wanted}

    def pairs(self, matches: Sequence[Match]) -> list[PairLine]:
        """Return the matches, each with the cells of its latents."""
        mine = self.cells(self.mine, (m.latent for m in matches))
        best_matches = [m.best_match for m in matches if m.best_match is not None]
        other = self.cells(self.other, [m.others[0] for m in matches] + best_matches)
        return [
            PairLine(m, mine[m.latent], other[m.others[0]],
                     other[m.best_match] if m.best_match is not None and m.best_match != m.others[0] else None)
            for m in matches]

    def split_lines(self, splits: Sequence[Split]) -> list[SplitLine]:
        """Return the splits, each with the cells of its latents; the coarse latent is of `mine`."""
        coarse = self.cells(self.mine, (s.latent for s in splits))
        fine = self.cells(self.other, (i for s in splits for i, _ in s.pieces[:6]))
        return [SplitLine(coarse[s.latent], [(fine[i], cosine) for i, cosine in s.pieces[:6]]) for s in splits]


def cosine_chart(comparison: Comparison, side: int, names: Sequence[str]) -> Markup:
    """Draw the largest cosines of one side's alive latents, with the other side's as an outline."""
    mine, other = comparison.histogram(side), comparison.histogram(1 - side)
    used = [i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a[2] or b[2]]
    low, high = (max(used[0] - 1, 0), used[-1] + 1) if used else (0, 0)
    totals = [max(sum(n for _, _, n in bins), 1) for bins in (mine, other)]

    def bars(bins: Sequence[tuple[float, float, int]], total: int) -> list[charts.Bar]:
        return [charts.Bar(start, stop, n / total) for start, stop, n in bins[low:high]]

    frame = charts.Frame(
        "Largest cosine with any latent of the other SAE", "cosine", "share of alive latents", 560, 240,
        y_format=percent, y_tick=percent)
    return charts.histogram(
        bars(mine, totals[0]), frame, outlines=[(names[1], bars(other, totals[1]))], label=names[0],
        markers=[charts.Marker(PARTNER_COSINE, "partner")])


def comparable(catalog: Catalog, sae: Sae) -> list[Sae]:
    """Return the SAEs that can be compared with this one: of the same model and with the same d_model."""
    if sae.weightless:
        return []
    return [one for one in catalog.list_saes() if one.id != sae.id and one.model == sae.model
            and one.config.get("d_model") == sae.config.get("d_model") and not one.weightless]
