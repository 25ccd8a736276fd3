"""How much of a text belongs to a latent's concept, and how much of it repeats itself.  No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sae.store.records import Latent

_N = 3  # tokens in a row that count as a repetition


def concept_tokens(latent: Latent, n: int = 10) -> tuple[int, ...]:
    """The tokens that stand for a latent: the `n` it pushes up most and the `n` it fires on most, each once."""
    pushed = [token for token, _ in latent.logit_pos[:n]]
    fired_on = [entry.token for entry in latent.top_tokens[:n]]
    return tuple(dict.fromkeys([*pushed, *fired_on]))


def concept_share(ids: Sequence[int], concept: Collection[int]) -> float | None:
    """The share of the tokens that are in `concept`; None for an empty text or concept."""
    wanted = set(concept)
    return sum(i in wanted for i in ids) / len(ids) if ids and wanted else None


def repetition(ids: Sequence[int], n: int = _N) -> float | None:
    """1 − distinct n-grams / n-grams: 0 where nothing comes twice; None for a text shorter than `n`.

    The share of repeated n-grams of Welleck et al., Neural Text Generation with Unlikelihood
    Training, section 6.1 ("seq-rep-n").
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None
