"""Latents of a build by the tokens of a text: what they fire on, what they raise, and their rules.

A search looks through every latent of many builds, so it compares whole columns, which are kept as arrays.
Shapes: L latents, T firings on the wanted tokens, R good rules, M their tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np

from sae.store.build import Build
from sae.store.firings import firings_on
from sae.store.raised_logits import raised_logits
from sae.store.records import CLASSES, RULE_COLUMNS, Rule, rule_of
from sae.store.whole_columns import StrongestOfKeys, arrays, by_number

LIMIT = 40  # latents for each kind of question
_AT_ONCE = 1 << 20  # latents whose rules are read at once
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


def _n_tokens(build: Build) -> int:
    return 1 + max(build.vocabulary, default=-1)


@dataclass(frozen=True, eq=False)
class _Rules:
    """The best rules that name each token, or each class."""

    by_token: StrongestOfKeys
    by_class: StrongestOfKeys


_CLASS_NUMBERS = {name: number for number, name in enumerate(CLASSES)}


def _rules(build: Build, min_f1: float) -> _Rules:
    by_token, by_class = StrongestOfKeys(_n_tokens(build), LIMIT), StrongestOfKeys(len(CLASSES), LIMIT)
    for low in range(0, build.n_latents, _AT_ONCE):
        among = f"FROM latent WHERE rule_f1 >= ? AND latent >= {low} AND latent < {low + _AT_ONCE}"
        found = arrays(build, f"SELECT unnest(rule_tokens) AS token, rule_f1, latent {among} ORDER BY latent", [min_f1])
        by_token.add(*(np.ma.filled(found[name], -1) for name in ("token", "rule_f1", "latent")))
        found = arrays(
            build, f"SELECT list_position(?::VARCHAR[], rule_class) - 1 AS class, rule_f1, latent {among} AND"
            " rule_class IS NOT NULL ORDER BY latent", [list(CLASSES), min_f1])
        by_class.add(*(np.ma.filled(found[name], -1) for name in ("class", "rule_f1", "latent")))
    return _Rules(by_token, by_class)


def with_rule(build: Build, tokens: Iterable[int], classes: Iterable[str], min_f1: float) -> list[tuple[int, Rule]]:
    """Return the latents whose rule names one of these tokens or classes, with an F1 of at least `min_f1`."""
    rules = build.kept(_rules, min_f1)
    found = [rules.by_token.of(token) for token in tokens]
    found += [rules.by_class.of(_CLASS_NUMBERS[name]) for name in classes if name in _CLASS_NUMBERS]
    f1 = {int(latent): float(value) for latents, values in found for latent, value in zip(latents, values, strict=True)}
    best = nsmallest(LIMIT, f1, key=lambda latent: (-f1[latent], latent))
    known = dict(rules_of(build, min_f1, best))
    return [(latent, known[latent]) for latent in best if latent in known]


def rules_of(build: Build, min_f1: float, latents: Iterable[int]) -> list[tuple[int, Rule]]:
    """Return the rules of these latents whose F1 is at least `min_f1`."""
    return [(row["latent"], rule) for row in build.facts_of(latents, "latent", *RULE_COLUMNS)
            if (rule := rule_of(row)) is not None and rule.f1 is not None and rule.f1 >= min_f1]


def rules_with_firings(build: Build) -> dict[int, tuple[Rule | None, int]]:
    """Return the rule of every latent, and the number of tokens on which it fires, in one query."""
    return {row["latent"]: (rule_of(row), row["n_tokens"]) for row in build._rows(
        f"SELECT latent, coalesce(n_tokens, 0) AS n_tokens, {', '.join(RULE_COLUMNS)} FROM latent")}


def explained_as(build: Build, text: str) -> list[tuple[int, str]]:
    """Return the latents with an imported explanation that contains `text` in any case, and the explanation."""
    if not build.n_rows("explanation"):
        return []
    return [(row["latent"], row["text"]) for row in build._rows(
        "SELECT latent, text FROM explanation WHERE contains(lower(text), lower(?))"
        f" ORDER BY latent LIMIT {LIMIT}", [text])]


def rule_qualities(build: Build, min_f1: float = 0.0) -> dict[int, float]:
    """Return the F1 of each latent's rule on the half of the text on which it was not found, from `min_f1` up."""
    found = arrays(build, "SELECT latent, rule_f1 FROM latent WHERE rule_f1 >= ?", [min_f1])
    f1 = found["rule_f1"].astype(np.float64).round(6)  # a stored 0.7 is slightly less
    return dict(zip(found["latent"].tolist(), f1.tolist(), strict=True))


def rule_scores(build: Build) -> Any:
    """Return the F1 of every latent's rule on the half of the text on which it was not found, [L]; NaN without a rule.

    A build keeps it.
    """
    return build.kept(_rule_scores)


def _rule_scores(build: Build) -> Any:
    return by_number(build, "rule_f1", np.nan, np.float32)


def _firings(build: Build) -> Any:
    """Return the number of firings of every latent by its number; `_UNKNOWN` where it is not known."""
    return by_number(build, "n_tokens", _UNKNOWN, np.int64)


def _known(value: Any, unknown: int) -> int | None:
    return None if value == unknown else int(value)

