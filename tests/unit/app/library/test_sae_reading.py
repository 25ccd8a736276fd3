"""How an SAE reads a text: with or without BOS, and whether the text is longer than its training contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.library.sae_reading import beyond_training, reads_bos
from app.pages.steer.run_view import columns, prompt_pieces, run_view
from app.worker.protocol import Text
from tests.unit.app.pages.steer import made_runs


@pytest.mark.parametrize(("config", "expected"), [
    ({}, True), ({"bos": {"prepended": True}}, True), ({"bos": {"prepended": False}}, False), ({"bos": None}, True)])
def test_bos(config: dict[str, object], expected: bool) -> None:
    assert reads_bos(config) is expected


def test_a_text_beyond_the_training_context() -> None:
    assert beyond_training({"context_length": 128}, 128) is None
    assert beyond_training({"context_length": 128}, 129) == 128
    assert beyond_training({}, 10_000) is None


def test_a_steering_run_says_that_its_text_is_longer() -> None:
    asked = made_runs.request()
    view = run_view(made_runs.row(asked, made_runs.result({"steered": made_runs.text("a", "b", "c")})), None)
    assert view.beyond == []
    view.facts.update({name: replace(facts, context_length=4) for name, facts in view.facts.items()})
    (said,) = view.beyond
    assert "longer than the contexts of 4 tokens" in said


def test_a_prompt_without_bos_is_shown_whole() -> None:
    asked = made_runs.request()
    assert [piece.text for piece in prompt_pieces(asked, made_runs.PROMPT)] == ["def"]
    bare = Text(ids=[5, 6], pieces=["d", "ef"], acts=[[0.0], [0.0]])
    assert "".join(piece.text for piece in prompt_pieces(asked, bare)) == "def"
    assert columns(asked, bare, {})[0].start == 2
