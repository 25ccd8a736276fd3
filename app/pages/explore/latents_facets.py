"""The counts next to the filters of the latent table that people and explanations make.

Each count says how many latents the list has after a click on it, with the other filters as they are.
Shapes: L latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app.library import explanations, labels
from app.pages.explore.latents_query import EXPLAINED, Resolved, well_ruled
from sae.store.build import Build
from sae.store.facets import listed


@dataclass(frozen=True)
class PeopleCounts:
    """The counts of labelled and starred latents, of each tag, and of each value of the filter `explained`.

    `explained` is {} where no latent has an explanation, and leaves out the values that no latent has.
    """

    labelled: int
    starred: int
    tags: dict[str, int]
    explained: dict[str, int]


def people_counts(
    build: Build, db: Session, sae_id: str, asked: Resolved, starred: frozenset[int],
) -> PeopleCounts:
    """Count within the other filters.  A label and a star count in addition to them; the rest replaces its own kind."""
    open_L = listed(build, asked.filters, asked.token)
    untagged_L = listed(build, asked.without("tag"), asked.token) if "tag" in asked.sets else open_L
    by_explanation = "explained" in asked.sets or asked.filters.ruled is not None
    any_L = listed(build, asked.without("explained"), asked.token) if by_explanation else open_L
    tags = {tag: _count(untagged_L, latents) for tag, latents in labels.tagged(db, sae_id).items()}
    return PeopleCounts(_count(open_L, labels.texts(db, sae_id)), _count(open_L, starred), tags,
                        _explained(build, db, sae_id, any_L))


def _explained(build: Build, db: Session, sae_id: str, open_L: Any) -> dict[str, int]:
    """Count by kind of explanation.  Rules are an array of all latents, and the others are sets of few."""
    n, ruled = len(open_L), build.kept(well_ruled)
    by_kind = {kind: _within(n, latents) for kind, latents in explanations.latents_by_kind(db, sae_id).items()}
    rule_L = np.zeros(n, dtype=bool)
    rule_L[: len(ruled)] = ruled[:n]
    rule_L[by_kind.get("rule", [])] = True
    any_L = rule_L.copy()
    for latents in by_kind.values():
        any_L[latents] = True
    if not any_L.any():
        return {}
    counts = {kind: int(np.count_nonzero(open_L[latents])) for kind, latents in by_kind.items() if len(latents)}
    if rule_L.any():
        counts["rule"] = int(np.count_nonzero(rule_L & open_L))
    counts["any"] = int(np.count_nonzero(any_L & open_L))
    if not any_L.all():
        counts["none"] = int(np.count_nonzero(open_L)) - counts["any"]
    return {key: counts[key] for key in EXPLAINED if key in counts}


def _count(open_L: Any, latents: Iterable[int]) -> int:
    return int(np.count_nonzero(open_L[_within(len(open_L), latents)]))


def _within(n: int, latents: Iterable[int]) -> Any:
    """Return the numbers below `n` among these latents, each once."""
    wanted = np.fromiter(set(latents), np.int64)
    return wanted[(wanted >= 0) & (wanted < n)]
