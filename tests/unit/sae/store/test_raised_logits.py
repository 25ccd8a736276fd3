"""Tests of the tokens whose logits each latent raises most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sae.store.build import Build
from sae.store.raised_logits import _stable_order, raised_logits
from tests.builds import make_build


@given(st.lists(st.integers(-1, 3) | st.integers(2**16 - 2, 2**17 + 2) | st.just(2**31 - 1)))
def test_tokens_of_any_size_are_ordered_as_numpy_orders_them(tokens: list[int]) -> None:
    token_V = np.array(tokens, dtype=np.int32)
    assert _stable_order(token_V).tolist() == np.argsort(token_V, kind="stable").tolist()


def test_each_token_has_the_latents_that_raise_it_in_order(tmp_path: Path) -> None:
    build = Build.open(make_build(tmp_path / "b-1.duckdb", n_latents=20, n_contexts=10).path)
    try:
        logits = raised_logits(build)
        latents = [latent for i in range(20) if (latent := build.latent(i)) is not None]
        for token in build.vocabulary:
            pairs = [(latent.latent, value) for latent in latents for i, value in latent.logit_pos if i == token]
            assert list(zip(*(column.tolist() for column in logits.of_token(token)), strict=True)) == pairs
    finally:
        build.close()
