"""Draws follow the distribution, keep to the cut vocabulary, and depend on seed, step and token alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae.errors import UserError
from sae.steering.request import MAX_SEED, Sampling
from sae.steering.sampling import Draw, draw, draw_each, noise, seed_of


@given(seed=st.integers(0, 1000), top_k=st.integers(0, 12), top_p=st.floats(0.01, 1.0),
       temperature=st.floats(0.1, 3.0))
def test_draws_keep_to_the_cut_vocabulary(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    logits_V = np.random.default_rng(seed).normal(size=10).astype(np.float32)
    sampling = Sampling(top_k=top_k, top_p=top_p, temperature=temperature)
    token = draw(logits_V, Draw(sampling, seed, 3))
    probability = np.exp(logits_V.astype(np.float64) / temperature)
    if 0 < top_k < 10:
        probability[probability < np.sort(probability)[-top_k]] = 0
    probability /= probability.sum()
    assert probability[token] > 0
    assert probability[probability > probability[token]].sum() < top_p + 1e-5


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=1, top_p=1), Sampling(temperature=0.5, top_p=1), Sampling(temperature=1, top_p=0.9),
    Sampling(temperature=1, top_p=1, top_k=2)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    logits_V = np.array([0.0, 1.0, 2.0, -1.0], dtype=np.float32)
    drawn = [draw(logits_V, Draw(sampling, seed, step)) for seed in range(40) for step in range(200)]
    weight = np.exp(logits_V / sampling.temperature)
    if sampling.top_k:
        weight[np.argsort(weight)[:-sampling.top_k]] = 0
    if sampling.top_p < 1:
        weight[[0, 3]] = 0 if sampling.top_p <= 0.6 else weight[[0, 3]]
        weight[3] = 0  # 2, 1 and 0 hold 97% without it
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, weight / weight.sum(), atol=0.02)


def test_temperature_nothing_takes_the_likeliest() -> None:
    assert draw(np.array([0.0, 3.0, 2.0], dtype=np.float32), Draw(Sampling(temperature=0), 1, 1)) == 1


def test_noise_is_exponential_and_a_function_of_seed_step_and_token() -> None:
    tokens = np.arange(50_000)
    first = noise(7, 3, tokens)
    assert np.array_equal(noise(7, 3, tokens[100:200]), first[100:200])
    assert (first > 0).all()
    assert abs(first.mean() - 1) < 0.02
    assert abs(first.var() - 1) < 0.05
    for other in (noise(8, 3, tokens), noise(7, 4, tokens), noise(MAX_SEED, 511, tokens)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.02


def test_repetition_penalty_is_that_of_the_literature() -> None:
    """Positive logits of seen tokens are divided by it, negative ones multiplied."""
    logits_V = np.array([2.0, 1.5, -0.1, -0.15], dtype=np.float32)
    sampling = Sampling(temperature=0, repetition_penalty=1.5)
    assert draw(logits_V, Draw(sampling, 0, 0)) == 0
    assert draw(logits_V, Draw(sampling, 0, 0, {0})) == 1
    assert draw(logits_V[2:], Draw(sampling, 0, 0, {0})) == 0
    assert draw(logits_V[2:], Draw(Sampling(temperature=0, repetition_penalty=2), 0, 0, {0})) == 1
    assert logits_V[0] == 2.0


def test_texts_drawn_together_get_the_tokens_that_they_get_alone() -> None:
    """Groups are as large as a few texts with many candidates, and one text in the middle has no numbers."""
    rng = np.random.default_rng(1)
    samplings = [Sampling(temperature=0), Sampling(top_p=1), Sampling(top_k=20), Sampling(), Sampling(top_p=0.5),
                 Sampling(top_k=7, top_p=1), Sampling(repetition_penalty=1.3), Sampling(temperature=2)]
    rows = [(3 * rng.normal(size=900)).astype(np.float32) for _ in range(24)]
    rows[9][5] = np.nan
    texts = [Draw(samplings[n % 8], seed=n % 5, step=n, seen={1, 2}) for n in range(24)]
    together = draw_each(rows, texts)
    assert isinstance(together.pop(9), UserError)
    assert together == [draw(row, at) for n, (row, at) in enumerate(zip(rows, texts, strict=True)) if n != 9]
    assert len(set(together)) > 8
    assert draw_each([], []) == []


def test_what_is_not_a_number_is_refused() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="lower it") as error:
            draw(np.array([0.0, value], dtype=np.float32), Draw(Sampling(), 0, 0))
        assert error.value.field == "strength"


def test_samples_count_on_from_the_seed() -> None:
    sampling = Sampling(seed=MAX_SEED)
    assert [seed_of(sampling, n) for n in range(3)] == [MAX_SEED, 0, 1]
