"""Columns of all latents as arrays, for what cannot ask DuckDB about every latent again.

A build may have millions of latents, so nothing here makes a Python object for each of them.

Shapes: L latents, N entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae.store.damage import reading

if TYPE_CHECKING:
    from sae.store.build import Build


def arrays(build: Build, sql: str, parameters: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the columns of a query as numpy arrays, masked where they are null."""
    with reading(build.path):
        cursor = build._connection.cursor()
        try:
            return dict(cursor.execute(sql, list(parameters)).fetchnumpy())
        finally:
            cursor.close()


def by_number(build: Build, column: str, missing: float, dtype: Any) -> Any:
    """Return a column of `latent` by the number of the latent, [L]; `missing` where it has no value."""
    found = arrays(build, f"SELECT latent, {column} AS value FROM latent")
    out = np.full(max(build.n_latents, int(found["latent"].max(initial=-1)) + 1), missing, dtype=dtype)
    out[found["latent"]] = np.ma.filled(found["value"], missing)
    return out


@dataclass(frozen=True, eq=False)
class FiringRates:
    """Density and maximum activation of every latent by its number, [L]; 0 where it never fired."""

    density_L: Any
    max_L: Any

    @classmethod
    def read(cls, build: Build) -> FiringRates:
        density_L, max_L = by_number(build, "density", 0.0, np.float64), by_number(build, "max_act", 0.0, np.float32)
        return cls(np.nan_to_num(density_L), np.nan_to_num(max_L))

    def __contains__(self, latent: int) -> bool:
        return 0 <= latent < len(self.density_L) and bool(self.density_L[latent] > 0)

    def get(self, latent: int, default: tuple[float, float]) -> tuple[float, float]:
        """Return density and maximum of a latent, or the default if it never fired or does not exist."""
        return (float(self.density_L[latent]), float(self.max_L[latent])) if latent in self else default


class StrongestOfKeys:
    """The `limit` entries of each key with the largest values; equal values come in the order in which they are added.

    Entries are added in parts, of which only those that may stay are sorted.
    """

    def __init__(self, n_keys: int, limit: int) -> None:
        self._limit, self._least = limit, np.full(n_keys, -np.inf, dtype=np.float32)  # that a full key lets in
        self._key_N = np.empty(0, np.int32)
        self._value_N, self._latent_N = np.empty(0, np.float32), np.empty(0, np.int32)

    def add(self, key_N: Any, value_N: Any, latent_N: Any) -> None:
        """Add entries; keys from `n_keys` on are no keys."""
        key_N = key_N.astype(np.int64)
        known_N = (key_N >= 0) & (key_N < len(self._least))
        may_N = np.flatnonzero(known_N)
        may_N = may_N[value_N[may_N] > self._least[key_N[may_N]]]
        key_N = np.concatenate([self._key_N, key_N[may_N].astype(np.int32)])
        value_N = np.concatenate([self._value_N, value_N[may_N].astype(np.float32)])
        latent_N = np.concatenate([self._latent_N, latent_N[may_N].astype(np.int32)])
        order_N = np.lexsort((-value_N, key_N))  # stable: what was added first comes first
        key_N = key_N[order_N]
        first_N = np.searchsorted(key_N, key_N)
        rank_N = np.arange(len(key_N)) - first_N
        kept_N = rank_N < self._limit
        last_N = rank_N == self._limit - 1
        self._least[key_N[last_N]] = value_N[order_N[last_N]]
        self._key_N, self._value_N, self._latent_N = key_N[kept_N], value_N[order_N[kept_N]], latent_N[order_N[kept_N]]

    def of(self, key: int) -> tuple[Any, Any]:
        """Return the latents and the values of a key, the largest value first."""
        low, high = np.searchsorted(self._key_N, [key, key + 1])
        return self._latent_N[low:high], self._value_N[low:high]
