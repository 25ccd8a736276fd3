"""The other latents that a latent's page names: similar directions, and those that fire with it."""


from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.library.explanations import Name
from app.pages.explore.latent_views import snippet
from app.render.numbers import fixed, number, percent
from app.render.token_text import Row
from sae.store.build import Build
from sae.store.records import CofiringLatent, Latent


@dataclass(frozen=True)
class Related:
    """Another latent, with a number for each column of its table, and its interval ("" where it is exact)."""

    latent: int
    values: list[str]
    snippet: Row | None
    label: str
    intervals: list[str]


@dataclass(frozen=True)
class Relation:
    """A kind of relation: its name, the sentence that explains it, and a table with `columns`."""

    key: str
    name: str
    said: str
    columns: list[str]
    rows: list[Related]


def related_latents(latent: Latent) -> list[int]:
    """Return all latents that `relations` names."""
    pairs = [*latent.neighbours, *latent.encoder_neighbours]
    cofiring = [*latent.together, *latent.implies, *latent.implied_by]
    return sorted({i for i, _ in pairs} | {c.latent for c in cofiring})


def relations(build: Build, latent: Latent, names: Mapping[int, Name]) -> list[Relation]:
    """Return the relations of this latent that the build knows; empty ones are left out."""
    snippets = build.snippets(related_latents(latent))
    info = build.vocabulary
    sample = build.meta.get("company_tokens")
    basis = (f". For a latent with more than {sample} firings, shares are estimated from {sample} of them, drawn at "
             "random, and each figure is shown with its 95% interval") if sample else ""

    def row(other: int, *values: str, intervals: Sequence[str] = ()) -> Related:
        return Related(other, list(values), snippet(snippets.get(other), info),
                       names[other].text if other in names else "", list(intervals) or [""] * len(values))

    def cosines(pairs: Sequence[tuple[int, float]]) -> list[Related]:
        return [row(other, fixed(cosine, 3)) for other, cosine in pairs]

    def cofiring(latents: Sequence[CofiringLatent]) -> list[Related]:
        return [row(c.latent, percent(c.given), fixed(c.phi, 2), f"{number(c.lift, 1)}×", intervals=(
            _interval(c.given_interval, "{:.0%}".format), _interval(c.phi_interval, lambda phi: fixed(phi, 2)),
            _interval(c.lift_interval, lambda lift: number(lift, 1)))) for c in latents]

    given, given_other = ["P(other | this)", "φ", "lift"], ["P(this | other)", "φ", "lift"]
    kinds = [
        Relation("decoder", "Similar decoder", "Alive latents whose decoder rows have the highest cosine with its own: "
                 "they write nearly the same to the residual stream", ["cosine"], cosines(latent.neighbours)),
        Relation("encoder", "Similar encoder", "Alive latents whose encoder rows have the highest cosine with its own: "
                 "they look for nearly the same", ["cosine"], cosines(latent.encoder_neighbours)),
        Relation("together", "Co-firing", "P(other | this) is the share of this latent's tokens on which the other is "
                 "active too, φ the correlation of their firing, and lift how many times more often the other is "
                 "active there than on any token" + basis, given, cofiring(latent.together)),
        Relation("implies", "Fire whenever this one does", "Latents active on at least nine tenths of this one's "
                 "tokens, and twice as often as anywhere: this one may have split off from them" + basis, given,
                 cofiring(latent.implies)),
        Relation("implied_by", "Fire only when this one does", "Latents of whose tokens at least nine tenths are this "
                 "one's too: they may be finer parts of it" + basis, given_other, cofiring(latent.implied_by)),
    ]
    return [kind for kind in kinds if kind.rows]


def _interval(interval: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    return f"{write(interval[0])}–{write(interval[1])}" if interval else ""
