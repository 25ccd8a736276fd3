"""Tests of the client's records."""

from __future__ import annotations

import sys

import pytest

from sae.client.records import Model, SteeringResult, TextActivations, TextToken, frame, record


def text_of(n: int) -> TextActivations:
    tokens = [TextToken(i, f"t{i}", i == 0, 1) for i in range(n)]
    return TextActivations("a/b", tokens, [1, 2, 2], [7, 7, 9], [0.5, 1.5, 2.5], [])


def test_unknown_keys_are_ignored_and_more_replaces() -> None:
    values = {"model": "m", "id": "x", "saes": [], "url": "/", "new": 1}
    assert record(Model, values, id="y") == Model("m", "y", [], "/")


def test_activations_of_a_latent_are_dense() -> None:
    assert text_of(4).of(7) == [0.0, 0.5, 1.5, 0.0]
    assert text_of(4).of(8) == [0.0] * 4
    assert text_of(3).to_frame().values.tolist() == [[1, "t1", 7, 0.5], [2, "t2", 7, 1.5], [2, "t2", 9, 2.5]]


@pytest.mark.parametrize(("state", "finished"), [
    ("queued", False), ("running", False), ("succeeded", True), ("failed", True), ("stopped", True)])
def test_a_steering_run_knows_whether_it_has_ended(state: str, finished: bool) -> None:
    assert SteeringResult("s", "/s", state, None, {}, {}, {}).finished is finished


def test_an_empty_frame_has_its_columns() -> None:
    assert list(frame([], ("a", "b")).columns) == ["a", "b"]


def test_without_pandas_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        frame([])
