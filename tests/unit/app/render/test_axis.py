"""Tests of axes: positions, ticks, and how their numbers are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.render.axis import Axis, edge_text, tick_text


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.booleans())
def test_ticks_lie_on_the_axis(low: float, span: float, log: bool) -> None:
    axis = Axis(abs(low) + 1e-3 if log else low, (abs(low) + 1e-3 if log else low) + span, 0, 100, log)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 14
    assert all(-0.5 <= axis(t) <= 100.5 for t in ticks)


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (5, "5"), (0.25, "0.25"), (9999, "9,999"), (10_000, "10 k"), (1e-4, "1e−4"), (-3.5, "−3.5")])
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.547059, "0.547"), (1234.0, "1,234"), (12.3456, "12.3"), (-0.5, "−0.5")])
def test_edges_of_bins_have_three_digits(value: float, text: str) -> None:
    assert edge_text(value) == text


def test_positions_on_a_linear_and_on_a_log_axis() -> None:
    assert [Axis(0, 10, 100, 0)(x) for x in (0, 5, 10, 99)] == [100, 50, 0, 0]
    log = Axis(1, 100, 0, 100, log=True)
    assert [log(x) for x in (0.5, 1, 10, 100)] == [0, 0, 50, 100]
    assert log.ticks() == [1, 10, 100]


def test_an_axis_of_one_value_has_a_length() -> None:
    assert (Axis(3, 3, 0, 100).low, Axis(3, 3, 0, 100).high) == (3, 6)
    assert Axis(0, 0, 0, 100).high == 1
    assert Axis(-1, 5, 0, 100, log=True).low > 0
