"""The other latents that a latent's page names: near directions, and those that fire with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.db.tables import Label
from app.pages.explore.latent_views import snippet
from app.render.numbers import number, percent
from app.render.token_text import Row
from sae.store.build import Build
from sae.store.records import CofiringLatent, Latent


@dataclass(frozen=True)
class Related:
    """Another latent: a number that says how near it is, a second one in words, best context, label."""

    latent: int
    value: str
    note: str
    snippet: Row | None
    label: str


@dataclass(frozen=True)
class Relation:
    """One kind of nearness; `said` is the sentence that explains it."""

    key: str
    name: str
    said: str
    rows: list[Related]


def related_latents(latent: Latent) -> list[int]:
    """All latents that `relations` names."""
    pairs = [*latent.neighbours, *latent.encoder_neighbours]
    companions = [*latent.together, *latent.implies, *latent.implied_by]
    return sorted({i for i, _ in pairs} | {c.latent for c in companions})


def relations(build: Build, latent: Latent, labels: Mapping[int, Label]) -> list[Relation]:
    """The kinds of nearness that the build knows of this latent, each with its latents; empty kinds are left out."""
    snippets = build.snippets(related_latents(latent))
    info = build.vocabulary
    sample = build.meta.get("company_tokens")
    basis = f"; shares are of at most {sample} of its firings, drawn at random" if sample else ""

    def row(other: int, value: str, note: str = "") -> Related:
        return Related(other, value, note, snippet(snippets.get(other), info),
                       labels[other].text if other in labels else "")

    def cosines(pairs: Sequence[tuple[int, float]]) -> list[Related]:
        return [row(other, f"{cosine:.3f}") for other, cosine in pairs]

    def company(companions: Sequence[CofiringLatent]) -> list[Related]:
        return [row(c.latent, percent(c.given), f"φ {c.phi:.2f} · {number(c.lift)}×") for c in companions]

    kinds = [
        Relation("decoder", "Same direction", "Living latents whose decoder directions have the highest cosine with "
                 "this one: they write the same", cosines(latent.neighbours)),
        Relation("encoder", "Same reading", "Living latents whose encoder rows have the highest cosine with this one: "
                 "they look for the same", cosines(latent.encoder_neighbours)),
        Relation("together", "Fire together", "The share of this latent's tokens on which the other is active too, "
                 "their correlation φ, and how many times more often that is than on any token" + basis,
                 company(latent.together)),
        Relation("implies", "Fire whenever it does", "Latents active on at least nine tenths of this one's tokens, and "
                 "twice as often as anywhere: what this one may have split off from" + basis, company(latent.implies)),
        Relation("implied_by", "Fire only when it does", "Latents whose tokens are at least nine tenths tokens of this "
                 "one: finer pieces of it" + basis, company(latent.implied_by)),
    ]
    return [kind for kind in kinds if kind.rows]
