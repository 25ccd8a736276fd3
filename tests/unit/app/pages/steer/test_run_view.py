"""Tests of a steering run as its page shows it: pieces, columns, stored texts."""

from __future__ import annotations

import json

from fastapi.testclient import TestClient

from app.db.tables import SteerRun
from app.pages.steer.run_view import columns, pieces, run_json, run_view, whole_text
from app.worker.protocol import Done, Progress, Started, Text
from app.worker.steering_runs import LiveRun
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import Intervention, SteerRequest
from tests.unit.app.pages.steer.lab import (
    SAE,
)
from tests.unit.app.pages.steer.made_runs import FACTS, PROMPT, cell, request, result, row, text


def test_a_run_of_an_older_program_is_still_shown(browser: TestClient) -> None:
    asked = {"model": "demo", "prompt": "x", "interventions": [{"sae": SAE, "layer": 2, "latent": 1, "max_act": 1}]}
    old = {"ids": [300], "pieces": ["a"], "acts": [[0.5]], "finish": "length"}
    kept = {"prompt": Text().model_dump(), "columns": {"baseline": old, "steered": old}, "tokens": 2, "seconds": 1}
    with browser.app.state.sessions() as db:  # type: ignore[attr-defined]
        db.add(SteerRun(id="steer-old", sae_id=SAE, state="succeeded", result=json.loads(json.dumps(kept)),
                        request={"steer": asked, "saes": {}}))
        db.commit()
    assert "token for token" in browser.get("/steer/steer-old").text


# ---- without a page


def test_columns_are_grouped_by_sample_in_the_order_of_the_request() -> None:
    asked = request(samples=2, columns=("baseline", "steered"))
    texts = {"steered.2": text("x", "y", finish="eos", kl=[0.5, 0.25])}
    found = columns(asked, PROMPT, texts)
    assert [(c.key, c.title, c.sample, c.tokens) for c in found] == [
        ("baseline", "Baseline", 0, 0), ("steered", "Steered", 0, 0), ("baseline.2", "Baseline", 1, 0),
        ("steered.2", "Steered", 1, 2)]
    last = found[-1]
    assert (last.finish, last.kl, last.start) == ("eos", [0.5, 0.25], 2)
    assert [piece.text for piece in last.prompt] == ["def"], "BOS tells a reader nothing"


def test_tokens_are_coloured_by_the_strongest_latent_or_by_one() -> None:
    asked = request("add", "add")  # maxima 2 and 4
    written = text("a", "b", "c", acts=[[2.0, 0.0], [0.0, 1.0]])  # the newest token has no activation yet

    def titles(by: int | None) -> list[str]:
        return [piece.title.partition(" ·")[0] for piece in pieces(asked, written, 2, by)]

    assert titles(None) == ["1.000 × max", "0.250 × max", "“c” id 102"]
    assert titles(0) == ["1.000 × max", "“b” id 101", "“c” id 102"]
    assert titles(1) == ["“a” id 100", "0.250 × max", "“c” id 102"]
    assert "position 4" in pieces(asked, written, 2)[-1].title


def test_a_latent_that_never_fired_colours_nothing() -> None:
    asked = SteerRequest(model="demo", prompt="x", interventions=(
        Intervention(sae=SAE, layer=2, latent=1, mode="ablate", max_act=0.0),))
    assert [piece.css for piece in pieces(asked, text("a", acts=[[3.0]]), 1)] == [""]


def test_a_stored_run_is_seen_as_it_ended() -> None:
    stored = row(request(), result({"baseline": text("a"), "steered": text("b")}))
    view = run_view(stored, None, by=0)
    assert (view.final, view.state, view.note, view.tokens, view.seconds, view.start) == (
        True, "succeeded", "", 4, 0.5, 2)
    assert [[c.name for c in sample] for sample in view.samples] == [["baseline", "steered"]]
    assert view.facts == {SAE: FACTS}
    assert (view.by, run_view(stored, None, by=1).by) == (0, None), "there is one latent only"
    assert not view.same
    assert run_view(row(request(), result({"baseline": text("a"), "steered": text("a")})), None).same


def test_a_live_run_is_seen_as_it_is_now() -> None:
    live = LiveRun("steer-1")
    stored = row(request(), None, state="queued")
    assert run_view(stored, live).note == "asking the model worker"
    live.take(Started(prompt=PROMPT))
    live.take(Progress(columns={"baseline": text("a"), "steered": text("a", "b")}))
    view = run_view(stored, live)
    assert (view.state, view.final, view.written) == ("running", False, 2)
    assert not view.same, "texts that still grow may become different"
    live.take(Done(columns={"baseline": text("a"), "steered": text("a")}, stopped=False, tokens=2, seconds=0.1))
    view = run_view(stored, live)
    assert (view.state, view.tokens, view.same) == ("succeeded", 2, True)


def test_a_run_that_failed_before_its_first_token_has_empty_texts() -> None:
    view = run_view(row(request(), None, state="failed", error="no room"), None)
    assert (view.error, view.written, view.start, [c.tokens for c in view.columns]) == ("no room", 0, 0, [0, 0])
    assert not view.same


def test_whole_texts_are_found_by_their_key() -> None:
    stored = row(request(), result({"steered": text("b", "c")}))
    found = whole_text(stored, "steered")
    assert found is not None
    assert (found[0].ids, found[1].pieces) == ([0, 5], ["b", "c"])
    for key in ("baseline", "0", "", "steered.2"):
        assert whole_text(stored, key) is None, key
    asked = request()
    swept = row(asked, result({}, [cell(None), cell(2.0)]), SweepRequest(request=asked, strengths=(2.0,)))
    cells = whole_text(swept, "1")
    assert cells is not None
    assert cells[1].pieces == ["a", "b"]
    assert whole_text(swept, "2") is None
    assert whole_text(row(asked, None, state="failed"), "steered") is None


def test_the_json_of_a_run_has_its_texts_as_text() -> None:
    stored = row(request(), result({"steered": text("caf", "\xc3", "\xa9", "\xff")}))
    said = run_json(stored, None)
    assert said["text"] == {"steered": "caf\u00e9\ufffd"}
    assert (said["id"], said["url"], said["state"], said["sweep"]) == ("steer-1", "/steer/steer-1", "succeeded", None)
    live = LiveRun("steer-1")
    live.take(Started(prompt=PROMPT))
    early = run_json(row(request(), None, state="queued"), live)
    assert (early["state"], early["text"], early["result"]) == ("running", {}, None)


def test_a_sweep_has_cells_and_no_columns() -> None:
    asked = request()
    sweep = SweepRequest(request=asked, strengths=(2.0,))
    view = run_view(row(asked, result({}, [cell(None), cell(2.0)]), sweep), None)
    assert view.sweep == sweep
    assert (view.columns, [one.strength for one in view.cells], view.same) == ([], [None, 2.0], False)
