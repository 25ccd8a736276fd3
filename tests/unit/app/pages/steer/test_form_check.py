"""Tests of the way from the form to the request: every fault is shown at its field."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.tables import SteerRun
from app.pages.steer.form import Chip, Form, SaeFacts, default_values
from app.pages.steer.form_check import check, check_sweep, swept_place
from app.pages.steer.sweep_strengths import default_strengths
from tests.unit.app.fake_worker import FakeWorker
from tests.unit.app.pages.steer.lab import SAE, faults, finished, made


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"mode": "clamp", "target": "nan"}, "target-0", "finite number"),
    ({"mode": "clamp", "target": "1e9"}, "target-0", "−100 to 100"),
    ({"mode": "scale", "factor": "x"}, "factor-0", "−100 to 100"),
    ({"strength": "-inf"}, "strength-0", "finite number"),
    ({"samples": "0"}, "samples", "1 to 8"),
    ({"samples": "9"}, "samples", "1 to 8"),
    ({"repetition_penalty": "0.5"}, "repetition_penalty", "1 to 2"),
    ({"stop": "a\nb\nc\nd\ne"}, "stop", "Stop strings must be at most 4; 5 are given"),
    ({"stop": "x" * 65}, "stop", "at most 64 characters"),
    ({"latent": [str(n) for n in range(17)], "mode": ["ablate"] * 17}, "add", "at most 16"),
    ({"chat": "1"}, "chat", "no chat template"),
    ({"length": "-1"}, "length", "1 to 512"),
    ({"prompt": ""}, "prompt", "Type some text"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "prompt", "Type some text"),  # all at once
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "length", "Length must be a whole number from 1"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "strength-0", "Strength must be a number from"),
    ({"prompt": "", "length": "0", "strength": "x", "latent": "99"}, "latent-0", "there is no 99"),
    ({"prompt": "x" * 50_001}, "prompt", "Prompt must be at most 50,000 characters"),
    ({"start": "1000001"}, "start", "From position must be a whole number from 0 to 1,000,000"),
    ({"top_k": "9" * 5000}, "top_k", "Top-k must be a whole number"),
    ({"prompt": "  "}, "prompt", "Type some text"),
    ({"prompt": "x = 1\n" * 300}, "prompt", "shorten it"),
    ({"length": "0"}, "length", "1 to 512"),
    ({"length": "-3"}, "length", "1 to 512"),
    ({"length": "513"}, "length", "1 to 512"),
    ({"length": "400"}, "length", "at most"),
    ({"temperature": "hot"}, "temperature", "0 to 5"),
    ({"top_p": "0"}, "top_p", "above 0 and at most 1"),
    ({"top_k": "1.5"}, "top_k", "whole number"),
    ({"seed": "-1"}, "seed", "whole number"),
    ({"positions": "nowhere"}, "positions", "one of"),
    ({"strength": "nan"}, "strength-0", "finite number"),
    ({"strength": "1e9"}, "strength-0", "−100 to 100"),
    ({"strength": ""}, "strength-0", "−100 to 100"),
    ({"mode": "scale", "factor": "inf"}, "factor-0", "finite number"),
    ({"mode": "delete"}, "mode-0", "one of"),
    ({"latent": "60"}, "latent-0", "0 to 59"),
    ({"latent": "minus one"}, "latent-0", "there is no minus one"),
    ({"latent": ["2", "2"], "strength": ["1", "2"]}, "latent-1", "twice"),
    ({"latent": [str(n) for n in range(17)], "strength": ["1"] * 17}, "add", "at most 16"),
    ({"latent": []}, "add", "Choose a latent"),
    ({"sae": "demo/none"}, "latent-0", "there is no SAE"),
    ({"latent": "7"}, "latent-0", "never fired"),
])
def test_a_fault_is_told_at_its_field_and_nothing_is_stored(
    browser: TestClient, worker: FakeWorker, changes: dict[str, Any], at: str, words: str
) -> None:
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        before = db.query(SteerRun).count()
        assert words in faults(browser, **changes)[at]
        assert db.query(SteerRun).count() == before
    assert not worker.asked


def test_the_form_says_at_once_that_a_dead_latent_has_no_strength(browser: TestClient) -> None:
    form = f"/steer?sae={SAE}&latent=7"
    assert "never fired in the build" in browser.get(form).text
    assert "never fired in the build" not in browser.get(f"{form}&mode=ablate").text


def test_a_dead_latent_may_be_ablated(browser: TestClient) -> None:
    assert finished(browser, made(browser, latent="7", mode="ablate"))["state"] == "succeeded"


@pytest.mark.parametrize(("changes", "at", "words"), [
    ({"sweep": "1 two"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": "1 nan"}, "sweep", "Each strength must be a finite number"),
    ({"sweep": "1 1000"}, "sweep", "Each strength must be a number from −100 to 100"),
    ({"sweep": " ".join(map(str, range(17)))}, "sweep", "Strengths must be at least 1 and at most 16; 17 are given"),
    ({"sweep": "1", "mode": "ablate"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "sweep_of": "4"}, "sweep_of", "added, clamped or scaled"),
    ({"sweep": "1", "prompt": " "}, "prompt", "Type some text"),
])
def test_a_fault_of_a_sweep_is_told_at_its_field(
    browser: TestClient, changes: dict[str, Any], at: str, words: str
) -> None:
    assert words in faults(browser, "/steer/sweep", **changes)[at]


# ---- without a page


FACTS = SaeFacts("demo/2-one", "demo", 2, 60, 256, "none", "build-1", median_norm=10.0)


def form(*chips: Chip, prompt: str = "def", **values: str) -> Form:
    return Form(prompt, list(chips), default_values() | values)


def chip(latent: str = "3", **changes: Any) -> Chip:
    return Chip(FACTS.id, latent, **{"strength": "1", "target": "1", "factor": "0", "facts": FACTS, "max_act": 2.0,
                                     **changes})


def test_a_whole_form_makes_a_request() -> None:
    typed = form(chip(mode="clamp", target="−1.5"), chip("4", mode="remove", strength="x"), top_k=" 5 ",
                 stop="a\n\n\\n\\\\n", positions="output", samples="2")
    asked = check(typed)
    assert asked is not None, (typed.errors, [one.errors for one in typed.chips])
    assert [(i.latent, i.mode, i.strength, i.max_act, i.layer) for i in asked.interventions] == [
        (3, "clamp", -1.5, 2.0, 2), (4, "remove", 0.0, 2.0, 2)]
    assert asked.sampling.stop == ("a", "\n\\n"), "an empty line is no stop string"
    assert (asked.sampling.top_k, asked.where.positions, asked.samples, asked.prompt) == (5, "output", 2, "def")
    assert asked.columns == ("baseline", "steered")
    typed.control = True
    again = check(typed)
    assert again is not None
    assert again.columns == ("baseline", "steered", "control")


def test_an_error_that_is_known_already_stays() -> None:
    unknown = chip("99", max_act=None)
    unknown.errors["latent"] = "there is no 99"
    typed = form(unknown, chip("99"))
    assert check(typed) is None
    assert unknown.errors == {"latent": "there is no 99"}
    assert "twice" in typed.chips[1].errors["latent"]


def test_saes_of_two_models_do_not_mix() -> None:
    other = SaeFacts("gpt2/x", "gpt2", 2, 60, 768, "none", "b", 1.0)
    typed = form(chip(), Chip("gpt2/x", "1", strength="1", facts=other, max_act=1.0))
    assert check(typed) is None
    assert typed.chips[1].errors == {"latent": "gpt2/x belongs to another model than demo/2-one"}
    assert typed.chips[0].errors == {}


def test_a_model_that_is_gone_is_a_fault_of_the_prompt() -> None:
    lost = SaeFacts("lost/x", "/nowhere/at/all", 2, 60, 256, "none", "b", 1.0)
    typed = form(Chip("lost/x", "1", strength="1", facts=lost, max_act=1.0))
    assert check(typed) is None
    assert "not a directory" in " ".join(typed.errors.values())


def test_an_empty_chat_asks_for_a_message() -> None:
    typed = form(chip(), prompt="")
    typed.chat = True
    assert check(typed) is None
    assert typed.errors["prompt"] == "Type a message for the model to answer"


def test_strengths_of_a_sweep_are_sorted_and_each_counts_once() -> None:
    typed = form(chip(), chip("4"), sweep="2, 1;−1  2", sweep_of="1")
    asked = check(typed)
    assert asked is not None
    sweep = check_sweep(typed, asked, (7, 8))
    assert sweep is not None
    assert (sweep.strengths, sweep.place, sweep.concept) == ((-1.0, 1.0, 2.0), 1, (7, 8))


def test_without_strengths_a_sweep_takes_those_of_its_latent() -> None:
    typed = form(chip(), sweep=" ")
    asked = check(typed)
    assert asked is not None
    sweep = check_sweep(typed, asked, ())
    assert sweep is not None
    assert list(sweep.strengths) == default_strengths(typed.chips[0])


@pytest.mark.parametrize(("place", "found"), [("0", 0), ("1", None), ("-1", None), ("x", None), ("", None)])
def test_the_swept_latent_is_one_of_the_form(place: str, found: int | None) -> None:
    assert swept_place(form(chip(), sweep_of=place)) == found
