"""Tests of numbers as pages show them."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.render import numbers


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (950, "950"), (8_300, "8.3 k"), (1_234_567, "1.2 M"), (999_999, "1 M"), (2.5e9, "2.5 B"), (None, "–"),
    (0.25, "0.2"), (150_000, "150 k"),
])
def test_compact(value: float | None, text: str) -> None:
    assert numbers.compact(value) == text


@pytest.mark.parametrize(("share", "text"), [
    (0.00012, "0.012% · 1 in 8,300 tokens"), (0.5, "50% · 1 in 2 tokens"), (0.0, "never"), (None, "–"),
    (0.37, "37% · 1 in 2.7 tokens"), 
])
def test_density_in_both_forms(share: float | None, text: str) -> None:
    assert numbers.density(share) == text


@pytest.mark.parametrize(("share", "text"), [(0.9976, "99.8%"), (0.99997, ">99.9%"), (1.0, "100%"), (0.994, "99%")])
def test_nearly_all_is_not_all(share: float, text: str) -> None:
    assert numbers.percent(share) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "0.4 s"), (12, "12 s"), (190, "3 min 10 s"), (180, "3 min"), (7500, "2 h 5 min"), (273600, "3 d 4 h"),
    (59.9, "1 min"), (None, "–"),
])
def test_duration(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(512, "512 B"), (8_400, "8.4 kB"), (1_200_000_000, "1.2 GB")])
def test_bytes(n: float, text: str) -> None:
    assert numbers.size(n) == text


def test_number_keeps_small_values_visible() -> None:
    assert numbers.number(0.00003) == "3.0e−5"
    assert numbers.number(1234.5) == "1,234.50"
    assert numbers.number(0) == "0.00"


@pytest.mark.parametrize("write", ["compact", "whole", "number", "fixed", "signed", "percent"])
def test_negative_numbers_have_a_minus_sign(write: str) -> None:
    for value in (-4.0, -0.012, -1e-7, -12345.6, -2.5e9):
        assert "-" not in numbers.FILTERS[write](value)
    assert numbers.FILTERS[write](-4.0).startswith("−4")


def test_differences_have_their_sign() -> None:
    assert [numbers.signed(value) for value in (0.5, -0.5, 0, None)] == ["+0.50", "−0.50", "+0.00", "–"]


@given(st.floats(-1e15, 1e15) | st.just(math.nan))
@example(5e-324)
def test_every_filter_answers_something(value: float) -> None:
    for name, function in numbers.FILTERS.items():
        if name == "minus" or (name == "moment" and abs(value) > 1e11):  # the former takes text
            continue
        assert function(value)
        assert "nan" not in function(math.nan)
