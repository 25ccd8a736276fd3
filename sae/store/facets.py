"""Counts of the latents of a list, from columns that are kept as arrays: a query takes milliseconds for each of them.

Shapes: L latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae.store.latent_query import ALIVE, DENSITIES, Filters
from sae.store.raised_logits import raised_logits
from sae.store.records import FLAGS
from sae.store.whole_columns import arrays

if TYPE_CHECKING:
    from sae.store.build import Build


_FEW = 8  # where a list has less than this part of the latents, its own are looked at one by one


@dataclass(frozen=True)
class _Columns:
    """The number, the flags, the F1 of the rule (NaN without one) and the decade of density of every latent.

    The decade is `len(DENSITIES)` where the density is in none.  `in_order` says whether the numbers are 0 to L - 1.
    """

    latent_L: Any
    in_order: bool
    rule_f1_L: Any
    flags: dict[str, Any]
    decade_L: Any


def _columns(build: Build) -> _Columns:
    found = arrays(build, f"SELECT latent, density, rule_f1, {', '.join(FLAGS)} FROM latent")
    density_L = np.ma.filled(found["density"], 0.0)
    density_L = np.where(np.isnan(density_L), np.inf, density_L)  # as DuckDB sorts it
    decade_L = np.full(len(density_L), len(DENSITIES), dtype=np.uint8)
    for place, (low, high) in enumerate(DENSITIES.values()):
        inside_L = density_L >= low if low is not None else density_L > 0
        decade_L[inside_L if high is None else inside_L & (density_L < high)] = place
    flags = {name: np.ma.filled(found[name], False).astype(bool) for name in FLAGS}
    rule_f1_L = np.ma.filled(found["rule_f1"].astype(np.float32), np.nan)
    flags[ALIVE] = ~np.ma.filled(found["dead"], True).astype(bool)
    latent_L = found["latent"]
    in_order = bool(np.array_equal(latent_L, np.arange(len(latent_L))))
    return _Columns(latent_L, in_order, rule_f1_L, flags, decade_L)


def list_counts(build: Build, filters: Filters, token: int | None) -> tuple[int, dict[str, dict[str, int]]]:
    """Return the length of a list, and how many of its latents have each flag and each decade of density.

    A flag is counted in addition to the filters; a decade replaces the current one.
    """
    kept, open_L = build.kept(_columns), _open_but_for_density(build, filters, token)
    decades = np.bincount(kept.decade_L[open_L], minlength=len(DENSITIES) + 1)[:-1].tolist()
    if filters.density:
        open_L &= kept.decade_L == list(DENSITIES).index(filters.density)
    n = int(np.count_nonzero(open_L))
    if n < len(open_L) // _FEW:
        listed_N = np.flatnonzero(open_L)
        flags = {name: int(np.count_nonzero(has_L[listed_N])) for name, has_L in kept.flags.items()}
    else:
        flags = {name: int(np.count_nonzero(has_L & open_L)) for name, has_L in kept.flags.items()}
    return n, {"flag": flags, "density": dict(zip(DENSITIES, decades, strict=True))}


def listed(build: Build, filters: Filters, token: int | None) -> Any:
    """Return whether each latent is in a list, [number of latents], by its number."""
    kept, open_L = build.kept(_columns), _open_but_for_density(build, filters, token)
    if filters.density:
        open_L &= kept.decade_L == list(DENSITIES).index(filters.density)
    if kept.in_order:
        return open_L
    marked = np.zeros(int(kept.latent_L.max(initial=-1)) + 1, dtype=bool)
    marked[kept.latent_L[open_L]] = True
    return marked


def _open_but_for_density(build: Build, filters: Filters, token: int | None) -> Any:
    kept = build.kept(_columns)
    open_L = np.ones(len(kept.latent_L), dtype=bool)
    if filters.among is not None:
        open_L &= _are_in(kept, filters.among)
    if filters.ruled is not None:
        least, numbers, wanted = filters.ruled
        open_L &= ((kept.rule_f1_L >= least) | _are_in(kept, numbers)) == wanted
    if token is not None:
        open_L &= _are_in(kept, arrays(
            build, f"SELECT latent FROM token_latent WHERE token = {int(token)}")["latent"])
    if filters.logit is not None:
        open_L &= _are_in(kept, build.kept(raised_logits).of_token(filters.logit)[0])
    for flag in filters.flags:
        open_L &= kept.flags[flag]
    return open_L


def _are_in(kept: _Columns, latents: Iterable[int]) -> Any:
    """Return which latents are among these numbers, [L]."""
    wanted = latents if isinstance(latents, np.ndarray) else np.fromiter(latents, np.int64)
    marked = np.zeros(len(kept.latent_L) if kept.in_order else int(kept.latent_L.max(initial=-1)) + 1, dtype=bool)
    marked[wanted[(wanted >= 0) & (wanted < len(marked))]] = True
    return marked if kept.in_order else marked[kept.latent_L]
