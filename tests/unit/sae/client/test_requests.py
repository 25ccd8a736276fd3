"""Tests of the client's requests without a server: the calls that they make of given answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sae.client import requests
from sae.client.records import SteerEvent
from sae.client.requests import Call, EventReader, Flow, SaescopeError

JSON = {"content-type": "application/json"}


def carried_out(flow: Flow[Any], *answers: Any) -> tuple[list[Call], Any]:
    """Give a flow these answers; return its calls and what it returns."""
    calls = [flow.send(None)]
    try:
        for found in answers:
            calls.append(flow.send(found))
    except StopIteration as end:
        return calls, end.value
    raise AssertionError(f"{calls[-1]} was not answered")


def test_a_table_follows_the_cursor_up_to_its_limit() -> None:
    def page(first: int, n: int, cursor: str | None) -> dict[str, Any]:
        return {"total": 9, "sort": "latent", "next": cursor, "latents": [{"latent": first + i} for i in range(n)]}

    calls, table = carried_out(requests.table("a/b", 5, {"flag": "dense"}), page(0, 3, "x"), page(3, 2, "y"))
    assert [call.params for call in calls] == [
        {"flag": "dense", "limit": 5, "cursor": ""}, {"flag": "dense", "limit": 2, "cursor": "x"}]
    assert [row["latent"] for row in table.rows] == [0, 1, 2, 3, 4]
    calls, table = carried_out(requests.table("a/b", None, {}), page(0, 3, "x"), page(3, 1, None))
    assert (len(calls), len(table.rows), table.total) == (2, 4, 9)
    with pytest.raises(StopIteration):  # nothing is asked for no rows
        requests.table("a/b", 0, {}).send(None)


def test_steering_is_asked_for_until_it_has_ended() -> None:
    def run(state: str) -> dict[str, Any]:
        return {
            "id": "s/1", "url": "/steer/s", "state": state, "error": None, "request": {}, "text": {}, "result": None}

    calls, found = carried_out(
        requests.steer("http://x", {"latents": []}), {"id": "s/1"}, run("queued"), run("running"), run("succeeded"))
    assert [(call.method, call.path) for call in calls] == [("POST", "/api/steer"), *[("GET", "/api/steer/s%2F1")] * 3]
    assert [call.params.get("wait") for call in calls[1:]] == [0.0, requests.WAIT_S, requests.WAIT_S]
    assert (found.state, found.url) == ("succeeded", "http://x/steer/s")


def test_what_is_not_given_is_not_sent() -> None:
    body = requests.steer_body([{"sae": "a/b", "latent": 1}], "def", (), None, {"length": 4, "seed": None})
    assert body == {"latents": [{"sae": "a/b", "latent": 1}], "prompt": "def", "length": 4}
    calls, _ = carried_out(requests.write_label("a/b", 1, {"text": "", "note": None}), {
        "sae": "a/b", "latent": 1, "text": "", "note": "", "tags": [], "starred": False, "author": "", "updated": None,
        "version": 0})
    assert calls[0].json == {"text": ""}


@pytest.mark.parametrize("sae_id", ["one", "/b", "a/", ""])
def test_an_id_without_a_model_is_refused_before_it_is_sent(sae_id: str) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        requests.sae(sae_id).send(None)


def test_parts_of_an_address_are_quoted() -> None:
    assert requests.sae("a b/c/d").send(None).path == "/api/saes/a%20b/c%2Fd"


@pytest.mark.parametrize(("status", "content", "says", "field"), [
    (422, b'{"error": "top_p: too large", "field": "top_p"}', "top_p: too large", "top_p"),
    (502, b"<html>", "HTTP 502", None), (500, b"[1]", "HTTP 500", None)])
def test_an_error_has_the_servers_message(status: int, content: bytes, says: str, field: str | None) -> None:
    with pytest.raises(SaescopeError) as caught:
        requests.answer(status, content, JSON)
    assert (caught.value.status, str(caught.value), caught.value.field) == (status, says, field)


def test_an_answer_is_json() -> None:
    assert requests.answer(200, b'{"a": 1}', JSON) == {"a": 1}
    with pytest.raises(SaescopeError, match="address of a saescope server"):
        requests.answer(200, b"<html>", {"content-type": "text/html"})


def test_events_may_have_several_lines_of_data() -> None:
    reader = EventReader("")
    data = ['data: {"state": "running",', 'data: "note": "", "text": {}, "new": 1}']
    lines = [": ping", "", "event: progress", *data, ""]
    assert [event for line in lines for event in reader.take(line)] == [SteerEvent("running", "", {})]
    run = {"id": "s", "url": "/s", "state": "failed", "error": "no", "request": {}, "text": {}, "result": None}
    (done,) = [event for line in ("event: done", f"data: {json.dumps(run)}", "") for event in reader.take(line)]
    assert not isinstance(done, SteerEvent)
    assert (done.state, done.error) == ("failed", "no")


def test_the_text_of_a_sweep_is_decoded_from_bytes() -> None:
    pieces = [bytes([byte]).decode("latin-1") for byte in "é".encode()]
    cells = [{"strength": None, "text": {"pieces": ["a"]}}, {"strength": 2.0, "text": {"pieces": pieces}}]
    found = requests.result("", {"id": "s", "url": "/s", "state": "succeeded", "error": None, "request": {}, "text": {},
                                 "result": {"cells": cells}})
    assert found.strengths == {None: "a", 2.0: "é"}
