"""Latents of a build by the tokens of a text: what they fire on, what they raise, and their rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sae.store.build import Build
from sae.store.records import Rule

LIMIT = 40  # latents for each kind of question


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
    return [TokenHit(**row) for row in build._rows(
        "SELECT t.latent, t.token, t.n, l.n_tokens, t.lift,"
        " 2 * t.n / (coalesce(l.n_tokens, t.n) + greatest(coalesce(k.n, 0), t.n)) AS f1"
        " FROM token_latent t JOIN latent l ON l.latent = t.latent JOIN token k ON k.token = t.token"
        f" WHERE t.token IN (SELECT unnest(?::INTEGER[])) ORDER BY f1 DESC, t.latent LIMIT {LIMIT}", [list(tokens)])]


def raising(build: Build, tokens: Iterable[int]) -> list[tuple[int, int, float]]:
    """Return (latent, token, rise) where the token is among those whose logit the latent raises most."""
    return [tuple(row.values()) for row in build._rows(
        "SELECT latent, token, value FROM (SELECT latent, unnest(logit_pos) AS token,"
        " unnest(logit_pos_value) AS value FROM latent) WHERE token IN (SELECT unnest(?::INTEGER[]))"
        f" ORDER BY value DESC, latent LIMIT {LIMIT}", [list(tokens)])]


_RULE = ("latent, rule_kind AS kind, rule_tokens AS tokens, rule_class AS class_name, rule_precision AS precision,"
         " rule_recall AS recall, rule_f1 AS f1")


def with_rule(build: Build, tokens: Iterable[int], classes: Iterable[str], min_f1: float) -> list[tuple[int, Rule]]:
    """Return the latents whose rule names one of these tokens or classes, with an F1 of at least `min_f1`."""
    return _with_rules(build._rows(
        f"SELECT {_RULE} FROM latent WHERE rule_f1 >= ? AND"
        " (rule_class IN (SELECT unnest(?::VARCHAR[])) OR latent IN (SELECT latent FROM (SELECT latent,"
        " unnest(rule_tokens) AS token FROM latent) WHERE token IN (SELECT unnest(?::INTEGER[]))))"
        f" ORDER BY rule_f1 DESC, latent LIMIT {LIMIT}", [min_f1, list(classes), list(tokens)]))


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
    rows = build._rows("SELECT latent, rule_f1 FROM latent WHERE rule_f1 >= ?", [min_f1])
    return {row["latent"]: float(row["rule_f1"]) for row in rows}
