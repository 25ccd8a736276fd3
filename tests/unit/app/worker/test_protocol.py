"""Tests of the messages of the model worker: they survive the wire, and the socket's path is short enough."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from app.worker import protocol
from app.worker.protocol import decode_command, decode_event, encode, socket_path
from sae.steering.measurement_requests import (
    AblationRequest,
    InspectRequest,
    ReadoutRequest,
    ScoreRequest,
    SweepRequest,
)
from sae.steering.request import Intervention, SteerRequest

FOLDERS = {"demo/x": "/saes/demo/x"}
STEER = SteerRequest(model="demo", prompt="caf\u00e9\n", interventions=(
    Intervention(sae="demo/x", layer=2, latent=3, strength=-0.5, max_act=8.0),))
TEXT = protocol.Text(ids=[0, 7], pieces=["", "\xc3"], acts=[[0.0], [1.5]], kl=[0.0, 0.25], finish="length")
EFFECT = protocol.Effect(ce_at=[0.1], kl_at=[0.2], ce_after=[0.3], kl_after=[0.4])
CELL = protocol.Cell(strength=None, text=TEXT, concept=0.5, repetition=None, perplexity=2.0, error="too strong")
NEXT = protocol.NextToken(id=7, piece="\xc3", baseline=0.5, steered=0.25)

COMMANDS: list[Any] = [
    protocol.Hello(token="sesame"), protocol.Generate(request=STEER, folders=FOLDERS),
    protocol.Sweep(request=SweepRequest(request=STEER, strengths=(-1, 2), concept=(4,)), folders=FOLDERS),
    protocol.Readout(request=ReadoutRequest(request=STEER, ids=(0, 7), positions=(1,)), folders=FOLDERS),
    protocol.Inspect(request=InspectRequest(model="demo", saes=("demo/x",), texts=("\U0001f98a",)), folders=FOLDERS),
    protocol.Ablate(
        request=AblationRequest(model="demo", sae="demo/x", latent=3, contexts=((0, 1),)), folders=FOLDERS),
    protocol.Score(
        request=ScoreRequest(model="demo", sae="demo/x", latents=(3,), max_acts=(2.0,)), folders=FOLDERS),
    protocol.Warm(model="demo"), protocol.Status(), protocol.Stop()]
EVENTS: list[Any] = [
    protocol.Queued(position=2), protocol.Loading(what="demo"), protocol.Started(prompt=TEXT),
    protocol.Progress(columns={"steered.2": TEXT}), protocol.Part(done=0.5),
    protocol.Done(columns={"baseline": TEXT}, stopped=True, tokens=2, seconds=0.5),
    protocol.Swept(cells=[CELL], stopped=False, tokens=2, seconds=0.5),
    protocol.ReadOut(ids=[0, 7], pieces=["", "\xc3"], kl=[0.0, 0.5], baseline_acts=[[0.0]], steered_acts=[[1.0]],
                     tables=[protocol.NextTokens(position=1, rows=[NEXT])]),
    protocol.Inspected(seconds=0.1, texts=[protocol.InspectedText(
        ids=[0], pieces=[""], special=[True], windows=[], saes=[protocol.TextLatents(
            sae="demo/x", l0=[1], pos=[0], lat=[3], act=[1.5],
            ranked=[protocol.TextLatent(latent=3, max=1.5, sum=1.5, peak=0, n=1)])])]),
    protocol.Ablated(latent=3, firings=[1], effect=EFFECT, random=[EFFECT], sparsity=None, random_sparsity=0.5,
                     tokens=[NEXT]),
    protocol.Scored(scores=[protocol.LatentScore(latent=3, score=None, tokens=[7])], stopped=False),
    protocol.Ready(), protocol.Report(loaded=["demo"], memory=1, limit=2, waiting=0, going=1, pid=9, device="cpu"),
    protocol.Failed(message="prompt: too long", field="prompt"), protocol.Busy(retry_after_s=2.5)]


def kinds(union: Any) -> set[type[BaseModel]]:
    """Return the classes of a union of unions."""
    return {kind for one in get_args(union) for kind in (kinds(one) if get_args(one) else {one})}


@pytest.mark.parametrize("message", COMMANDS, ids=lambda message: message.type)
def test_commands_survive_the_wire_as_one_line(message: Any) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_command(line) == message


@pytest.mark.parametrize("message", EVENTS, ids=lambda message: message.type)
def test_events_survive_the_wire_as_one_line(message: Any) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode_event(line) == message


def test_every_message_is_among_these() -> None:
    assert {type(message) for message in COMMANDS} == kinds(protocol.Command)
    assert {type(message) for message in EVENTS} == kinds(protocol.Event)
    assert set(protocol.Final) == kinds(protocol.Answer)
    types = [message.type for message in COMMANDS + EVENTS]
    assert len(set(types)) == len(types)


def test_a_newer_side_may_send_more_fields() -> None:
    line = json.dumps({"type": "queued", "position": 3, "since": "a later version"}).encode()
    assert decode_event(line) == protocol.Queued(position=3)


@pytest.mark.parametrize("line", [
    b"", b"{", b"[]", b'{"position": 1}', b'{"type": "queued"}', b'{"type": "nonsense"}', b'{"type": "generate"}'])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_event(line)
    with pytest.raises(ValidationError):
        decode_command(line)


def test_pieces_are_bytes_of_any_kind() -> None:
    every = bytes(range(256))
    text = protocol.Text(ids=[1], pieces=[every.decode("latin-1")])
    event = decode_event(encode(protocol.Progress(columns={"steered": text})))
    assert isinstance(event, protocol.Progress)
    assert event.columns["steered"].token_bytes() == [every]


def test_the_socket_is_in_the_workspace_where_its_path_is_short(tmp_path: Path) -> None:
    assert socket_path(Path("/srv/data")) == Path(f"/srv/data/worker-{os.getpid()}.sock")


@pytest.mark.parametrize("runtime", ["short", "long", "missing"])
def test_a_long_workspace_path_gets_a_directory_that_only_this_user_enters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    folder = tmp_path / ("deep" * 30 if runtime == "long" else "run")
    if runtime != "missing":
        folder.mkdir()
    short = len(os.fsencode(folder)) < 60
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    path = socket_path(Path("/srv") / ("x" * 100))
    try:
        assert len(os.fsencode(path)) <= 100
        assert path.parent.stat().st_mode & 0o077 == 0
        assert (path.parent.parent == folder) == (runtime == "short" and short)
        assert path.name == f"worker-{os.getpid()}.sock"
    finally:
        path.parent.rmdir()
