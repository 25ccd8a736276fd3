"""The latents that fire on a token, as arrays that are kept: a query takes milliseconds for each build.

Shapes: N pairs of a token and a latent that fires on it, T those of some tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from sae.store.whole_columns import arrays

if TYPE_CHECKING:
    from sae.store.build import Build

_KEPT = 4_000_000  # pairs, of 16 bytes; more of them stay in the file


def firings_on(build: Build, tokens: Iterable[int]) -> tuple[Any, Any, Any, Any]:
    """Return token, latent, number of firings and lift (NaN: unknown) of the latents that fire on these tokens."""
    wanted = sorted({int(token) for token in tokens})
    if build.n_rows("token_latent") > _KEPT:
        listed = ", ".join(map(str, wanted))  # without a parameter, DuckDB reads only their rows
        return _arrays(build, f"WHERE token IN ({listed})")
    kept = build.kept(_arrays)
    bounds = [np.searchsorted(kept[0], [token, token + 1]) for token in wanted]
    token_T, latent_T, n_T, lift_T = (
        np.concatenate([column[:0], *(column[low:high] for low, high in bounds)]) for column in kept)
    return token_T, latent_T, n_T, lift_T


def _arrays(build: Build, where: str = "") -> tuple[Any, Any, Any, Any]:
    """Return the columns of the pairs, sorted by token."""
    found = arrays(build, f"SELECT token, latent, n, lift FROM token_latent {where}")
    order_N = np.argsort(found["token"], kind="stable")
    lift_N = np.ma.filled(found["lift"].astype(np.float32), np.nan)
    return (found["token"].astype(np.int32)[order_N], found["latent"].astype(np.int32)[order_N],
            np.ma.filled(found["n"], 0).astype(np.int32)[order_N], lift_N[order_N])
