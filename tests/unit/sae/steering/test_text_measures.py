"""Measures of a text, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.steering.text_measures import concept_share, concept_tokens, repetition


def test_shares_and_repetition() -> None:
    assert concept_share([1, 2, 2, 5], {2, 9}) == 0.5
    assert concept_share([], {2}) is None
    assert concept_share([1], ()) is None
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([7] * 12) == pytest.approx(9 / 10)
    assert repetition([1, 2]) is None


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_repetition_is_the_share_of_n_grams_that_came_before(ids: Sequence[int], n: int) -> None:
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    again = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert repetition(ids, n) == (pytest.approx(again / len(grams)) if grams else None)


def test_a_latents_concept_is_what_it_raises_and_what_it_fires_on_without_repeats() -> None:
    latent = SimpleNamespace(logit_pos=[(7, 2.0), (3, 1.5), (9, 1.0)],
                             top_tokens=[SimpleNamespace(token=token) for token in (3, 4, 7)])
    assert concept_tokens(latent) == (7, 3, 9, 4)  # type: ignore[arg-type]
    assert concept_tokens(latent, 1) == (7, 3)  # type: ignore[arg-type]
