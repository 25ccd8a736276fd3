"""Tests of the texts that a model may read, and of surprise against the binomial tail that it bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.tables import Sae
from app.pages.find.active import surprise, text_fault
from sae.errors import UserError
from sae.steering.measurement_requests import MAX_TEXT_CHARACTERS
from tests.unit.app.conftest import sae_config


def test_a_text_that_cannot_be_read() -> None:
    sae = Sae(id="demo/a", config=sae_config())
    assert text_fault("def read(self):", sae) == ""
    assert text_fault(" \n", sae) == "type or paste some text"
    assert "at most" in text_fault("x" * (MAX_TEXT_CHARACTERS + 1), None)
    assert "tokens with BOS" in text_fault("a b " * (MAX_TEXT_CHARACTERS // 4), sae)
    with pytest.raises(UserError):
        text_fault("x", Sae(id="demo/a", config=sae_config(model={"name": "/nowhere", "id": "x"})))


@given(st.integers(1, 40), st.integers(0, 40), st.floats(1e-6, 0.9))
def test_surprise_bounds_the_binomial_tail(total: int, n: int, density: float) -> None:
    n = min(n, total)
    bits = surprise(n, total, density)
    tail = math.fsum(math.comb(total, i) * density**i * (1 - density) ** (total - i) for i in range(n, total + 1))
    assert bits >= 0
    assert tail <= 2**-bits * (1 + 1e-9)
    if n / total <= density:
        assert bits == 0


def test_rarer_latents_surprise_more() -> None:
    assert surprise(1, 100, 1e-4) > surprise(1, 100, 1e-3) > surprise(1, 100, 1e-2) == 0
    assert surprise(50, 100, 0.5) == 0
    assert surprise(100, 100, 0.5) == pytest.approx(100)
