"""Measures of a text: its share of a latent's concept tokens, and its repetition.  No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sae.store.records import Latent

_N = 3  # length of the n-grams


def concept_tokens(latent: Latent, n: int = 10) -> tuple[int, ...]:
    """Return the tokens that represent a latent: the `n` whose logits it raises most and the `n` it fires on most."""
    raised = [token for token, _ in latent.logit_pos[:n]]
    fired_on = [entry.token for entry in latent.top_tokens[:n]]
    return tuple(dict.fromkeys([*raised, *fired_on]))


def concept_share(ids: Sequence[int], concept: Collection[int]) -> float | None:
    """Return the share of the tokens that are in `concept`, or None for an empty text or concept."""
    wanted = set(concept)
    return sum(i in wanted for i in ids) / len(ids) if ids and wanted else None


def repetition(ids: Sequence[int], n: int = _N) -> float | None:
    """Return 1 − distinct n-grams / n-grams: 0 without repetition, None for a text shorter than `n`.

    This is the share of repeated n-grams of Welleck et al., Neural Text Generation with Unlikelihood
    Training, section 6.1 ("seq-rep-n").
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None
