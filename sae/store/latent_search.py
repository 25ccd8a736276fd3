"""Latents of a build by the tokens of a text: what they fire on, what they raise, and their rules.

A search looks through every latent of many builds, so it compares whole columns, which are kept as arrays.
Shapes: L latents, T firings on the wanted tokens, R good rules, M their tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np

from sae.store.build import Build
from sae.store.facets import columns
from sae.store.firings import firings_on
from sae.store.raised_logits import raised_logits
from sae.store.records import Rule

LIMIT = 40  # latents for each kind of question
_UNKNOWN = -1  # the number of firings of a latent, where a dashboard does not say it


@dataclass(frozen=True)
class TokenHit:
    """A latent that fires `n` times on a token, of its `n_tokens` firings.

    `f1` is the F1 score of "it fires on this token" as a rule for its firing, over all tokens that were read.
    """

    latent: int
    token: int
    n: int
    n_tokens: int | None
    lift: float | None
    f1: float


def firing_on(build: Build, tokens: Iterable[int]) -> list[TokenHit]:
    """Return the latents that fire on one of these tokens, those first that fire on it most exclusively."""
    wanted = list(tokens)
    if not wanted:
        return []
    token_T, latent_T, n_T, lift_T = firings_on(build, wanted)
    firings_L = build.kept(_firings)
    firings_T = firings_L[latent_T]
    occurrences = {token: build.vocabulary[token].n or 0 for token in wanted}
    n_token_T = np.array([occurrences[token] for token in token_T.tolist()], dtype=np.int64)
    f1_T = 2 * n_T / np.maximum(np.where(firings_T == _UNKNOWN, n_T, firings_T) + np.maximum(n_token_T, n_T), 1)
    return [TokenHit(int(latent_T[i]), int(token_T[i]), int(n_T[i]), _known(firings_T[i], _UNKNOWN),
                     None if np.isnan(lift_T[i]) else float(lift_T[i]), float(f1_T[i]))
            for i in np.lexsort((latent_T, -f1_T))[:LIMIT]]


def raising(build: Build, tokens: Iterable[int]) -> list[tuple[int, int, float]]:
    """Return (latent, token, rise) where the token is among those whose logit the latent raises most."""
    logits = build.kept(raised_logits)
    found = [(latent, int(token), value) for token in dict.fromkeys(tokens) for latent, value in zip(
        *(column.tolist() for column in logits.of_token(int(token))), strict=True)]
    return nsmallest(LIMIT, found, key=lambda hit: (-hit[2], hit[0]))


@dataclass(frozen=True)
class _Rules:
    """The rules of a build with some F1 or more, the best first.  Rule r has the tokens from `start_R[r]` on."""

    rows: dict[str, Any]
    token_M: Any
    rule_M: Any
    start_R: Any

    def rule(self, r: int) -> tuple[int, Rule]:
        """Return a rule and its latent."""
        tokens = self.token_M[self.start_R[r] : self.start_R[r + 1]].tolist()
        name = self.rows["rule_class"][r]
        return int(self.rows["latent"][r]), Rule(
            str(self.rows["rule_kind"][r]), tokens, name if isinstance(name, str) else None,
            *(float(self.rows[f"rule_{part}"][r]) for part in ("precision", "recall", "f1")))


def _rules(build: Build, min_f1: float) -> _Rules:
    rows = {name: np.ma.filled(column, None) if column.dtype == object else np.ma.getdata(column)
            for name, column in columns(
                build, "SELECT latent, rule_kind, rule_class, rule_tokens, rule_precision, rule_recall, rule_f1"
                " FROM latent WHERE rule_f1 >= ? ORDER BY rule_f1 DESC, latent", [min_f1]).items()}
    lists = [() if one is None else np.ma.getdata(one) for one in rows.pop("rule_tokens")]
    n_R = np.array([len(one) for one in lists], dtype=np.int64)
    token_M = np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64)
    return _Rules(rows, token_M, np.repeat(np.arange(len(n_R)), n_R), np.concatenate([[0], n_R.cumsum()]))


_RULE = ("latent, rule_kind AS kind, rule_tokens AS tokens, rule_class AS class_name, rule_precision AS precision,"
         " rule_recall AS recall, rule_f1 AS f1")


def with_rule(build: Build, tokens: Iterable[int], classes: Iterable[str], min_f1: float) -> list[tuple[int, Rule]]:
    """Return the latents whose rule names one of these tokens or classes, with an F1 of at least `min_f1`."""
    rules = build.kept(_rules, min_f1)
    hits = set(rules.rule_M[_among(rules.token_M, list(tokens))].tolist())
    for name in classes:
        hits.update(np.flatnonzero(rules.rows["rule_class"] == name).tolist())
    return [rules.rule(r) for r in sorted(hits)[:LIMIT]]


def rules_of(build: Build, min_f1: float, latents: Collection[int] | None = None) -> list[tuple[int, Rule]]:
    """Return the rules of these latents (None: of all) whose F1 is at least `min_f1`."""
    if latents is None:
        return _with_rules(build._rows(f"SELECT {_RULE} FROM latent WHERE rule_f1 >= ?", [min_f1]))
    return _with_rules(build._rows(
        f"SELECT {_RULE} FROM latent WHERE latent IN (SELECT unnest(?::INTEGER[])) AND rule_f1 >= ?",
        [list(latents), min_f1]))


def rules_with_firings(build: Build) -> dict[int, tuple[Rule | None, int]]:
    """Return the rule of every latent, and the number of tokens on which it fires, in one query."""
    rows = build._rows(f"SELECT {_RULE}, coalesce(n_tokens, 0) AS n_tokens FROM latent")
    firings = {row["latent"]: row.pop("n_tokens") for row in rows}
    rules = dict(_with_rules([row for row in rows if row["kind"] is not None]))
    return {latent: (rules.get(latent), n) for latent, n in firings.items()}


def _with_rules(rows: Iterable[dict[str, Any]]) -> list[tuple[int, Rule]]:
    return [(row.pop("latent"), Rule(**{**row, "tokens": row["tokens"] or []})) for row in rows]


def explained_as(build: Build, text: str) -> list[tuple[int, str]]:
    """Return the latents with an imported explanation that contains `text` in any case, and the explanation."""
    if not build.n_rows("explanation"):
        return []
    return [(row["latent"], row["text"]) for row in build._rows(
        "SELECT latent, text FROM explanation WHERE contains(lower(text), lower(?))"
        f" ORDER BY latent LIMIT {LIMIT}", [text])]


def rule_qualities(build: Build, min_f1: float = 0.0) -> dict[int, float]:
    """Return the F1 of each latent's rule on the half of the text on which it was not found, from `min_f1` up."""
    found = columns(build, "SELECT latent, rule_f1 FROM latent WHERE rule_f1 >= ?", [min_f1])
    f1 = found["rule_f1"].astype(np.float64).round(6)  # a stored 0.7 is slightly less
    return dict(zip(found["latent"].tolist(), f1.tolist(), strict=True))


def _firings(build: Build) -> Any:
    """Return the number of firings of every latent by its number; `_UNKNOWN` where it is not known."""
    found = columns(build, "SELECT latent, n_tokens FROM latent")
    out = np.full(max(build.n_latents, int(found["latent"].max(initial=-1)) + 1), _UNKNOWN, dtype=np.int64)
    out[found["latent"]] = np.ma.filled(found["n_tokens"], _UNKNOWN)
    return out


def firing_rates(build: Build) -> tuple[Any, Any]:
    """Return density [L] and maximum activation [L] of every latent, 0 where it never fired."""
    return build.kept(_firing_rates)


def _firing_rates(build: Build) -> tuple[Any, Any]:
    found = columns(build, "SELECT latent, density, max_act FROM latent")
    out = tuple(np.zeros(max(build.n_latents, int(found["latent"].max(initial=-1)) + 1)) for _ in range(2))
    for column, values in zip(out, (found["density"], found["max_act"]), strict=True):
        column[found["latent"]] = np.nan_to_num(np.ma.filled(values, 0.0))
    return out[0], out[1]


def _among(values: Any, wanted: Sequence[int]) -> Any:
    """Return where an array has one of a few values."""
    found = np.zeros(len(values), dtype=bool)
    for one in wanted:
        found |= values == one
    return found


def _known(value: Any, unknown: int) -> int | None:
    return None if value == unknown else int(value)

