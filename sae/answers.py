"""Rows of a build's tables as records.  A row is taken apart: it is of no use afterwards."""

from __future__ import annotations

from typing import Any

from sae.store.records import FLAGS, Companion, Context, Latent, LatentRow, Rule, TokenFirings


def _flags(row: dict[str, Any]) -> frozenset[str]:
    return frozenset(flag for flag in FLAGS if row.pop(flag))


def _pairs(ids: list[int] | None, values: list[float] | None) -> list[tuple[int, float]]:
    return list(zip(ids or [], values or [], strict=True))


def latent_of(row: dict[str, Any]) -> Latent:
    top = zip(row.pop("top_tokens") or [], row.pop("top_token_n") or [], row.pop("top_token_lift") or [],
              row.pop("top_token_max") or [], strict=True)
    after = zip(row.pop("next_tokens") or [], row.pop("next_token_n") or [], row.pop("next_token_lift") or [],
                strict=True)
    return Latent(
        flags=_flags(row),
        top_tokens=[TokenFirings(*item) for item in top],
        next_tokens=[TokenFirings(*item, max_act=None) for item in after],
        logit_pos=_pairs(row.pop("logit_pos"), row.pop("logit_pos_value")),
        logit_neg=_pairs(row.pop("logit_neg"), row.pop("logit_neg_value")),
        neighbours=_pairs(row.pop("neighbours"), row.pop("neighbour_cos")),
        encoder_neighbours=_pairs(row.pop("encoder_neighbours"), row.pop("encoder_neighbour_cos")),
        together=_companions(row, "together"), implies=_companions(row, "implies"),
        implied_by=_companions(row, "implied_by"),
        rule=_rule(row), **row)


def _companions(row: dict[str, Any], name: str) -> list[Companion]:
    columns = [row.pop(name + suffix) or [] for suffix in ("", "_given", "_lift", "_phi")]
    return [Companion(*values) for values in zip(*columns, strict=True)]


def _rule(row: dict[str, Any]) -> Rule | None:
    kind, tokens, class_name, *scores = (
        row.pop(f"rule_{name}") for name in ("kind", "tokens", "class", "precision", "recall", "f1"))
    return Rule(kind, tokens or [], class_name, *scores) if kind else None


def latent_row_of(row: dict[str, Any]) -> LatentRow:
    del row["sort_key"]
    return LatentRow(flags=_flags(row), rule=_rule(row), **{**row, "logit_pos": row["logit_pos"] or []})


def context_of(row: dict[str, Any], document: str) -> Context:
    acts = [0.0] * len(row["tokens"])
    for position, value in zip(row.pop("pos"), row.pop("val"), strict=True):
        acts[position] = value
    del row["doc"]
    return Context(acts=acts, document=document, **row)
