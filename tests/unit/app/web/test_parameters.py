"""Tests of the parsing of numbers in addresses and forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.parameters import LIMIT, whole_number


@given(st.integers(0, LIMIT - 1))
def test_every_number_below_the_limit_is_read(number: int) -> None:
    assert whole_number(str(number)) == number
    assert whole_number(f" {number} ") == number
    assert whole_number(str(number), number) is None


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", "²", "٣", "1_0", "0x1", "9" * 5000, str(LIMIT), "NaN"])
def test_nothing_else_is(text: str) -> None:
    assert whole_number(text) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    number = whole_number(text)
    assert number is None or int(text) == number
