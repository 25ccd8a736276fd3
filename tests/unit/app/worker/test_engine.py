"""Tests of every command of the model worker with a real one, and of many requests at once."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.settings import Settings
from app.worker import engine, protocol
from app.worker.client import WorkerClient
from sae.lm.bridge import LanguageModel
from sae.steering.measurement_requests import (
    AblationRequest,
    InspectRequest,
    ReadoutRequest,
    ScoreRequest,
    SweepRequest,
)
from sae.steering.request import MODES, ChatMessage, Intervention, Sampling, SteeredPositions, SteerRequest

SAE_ID = "demo/2-tiny"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_sae: Any) -> dict[str, str]:
    path = tmp_path_factory.mktemp("saes") / "2-tiny"
    tiny_sae("batch_topk", "layer_norm", folder=path)
    return {SAE_ID: str(path)}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    worker = WorkerClient(Settings(home=tmp_path_factory.mktemp("home"), worker_threads=1, worker_queue=64))
    yield worker
    worker.close()


def steer(**changes: Any) -> SteerRequest:
    one = Intervention(sae=SAE_ID, layer=2, latent=changes.pop("latent", 9), strength=2.0, max_act=8.0)
    values = {"model": "demo", "prompt": "def main(", "interventions": (one,), "sampling": Sampling(length=10)}
    return SteerRequest(**{**values, **changes})


async def events(client: WorkerClient, message: Any) -> list[protocol.Event]:
    return [event async for event in client.ask(message)]


def answer(client: WorkerClient, message: Any) -> Any:
    return asyncio.run(events(client, message))[-1]


def test_columns_samples_and_the_cost_in_information(client: WorkerClient, folders: dict[str, str]) -> None:
    request = steer(columns=("baseline", "steered", "control"), samples=2)
    final = answer(client, protocol.Generate(request=request, folders=folders))
    assert isinstance(final, protocol.Done)
    assert list(final.columns) == request.keys()
    for name, text in final.columns.items():
        assert len(text.ids) == len(text.acts)
        assert len(text.kl) == (0 if name.startswith("baseline") else len(text.ids))
    assert max(final.columns["steered"].kl) > 0


def test_no_text_waits_for_the_measurement_of_another(
    demo_lm: LanguageModel, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that end in the same step are all complete before the divergence of one of them is measured."""
    clock = [0.0]

    def measure(_self: Any, _model: Any, _run: Any, column: Any) -> Iterator[None]:
        clock[0] += 100
        yield
        return [0.0] * len(column.output)  # type: ignore[return-value]

    monkeypatch.setattr(engine, "open_model", lambda *_: demo_lm)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(engine.Engine, "_kl", measure)
    worker = engine.Engine(threads=torch.get_num_threads(), memory_bytes=1 << 30, device="cpu")
    sent: list[protocol.Event] = []
    request = steer(sampling=Sampling(length=3))
    jobs = [worker.begin(protocol.Generate(request=request, folders=folders), sent.append, threading.Event())
            for _ in range(3)]
    while jobs:
        worker.step()
        jobs = [job for job in jobs if next(job, "ended") != "ended"]
    assert [event.seconds for event in sent if isinstance(event, protocol.Done)] == [0, 0, 0]
    assert clock[0] == 300


def test_a_sweep_measures_every_cell(client: WorkerClient, folders: dict[str, str]) -> None:
    request = SweepRequest(request=steer(), strengths=(-2, 0, 2), concept=tuple(range(200)))
    seen = asyncio.run(events(client, protocol.Sweep(request=request, folders=folders)))
    final = seen[-1]
    assert isinstance(final, protocol.Swept)
    assert [cell.strength for cell in final.cells] == [None, -2, 0, 2]
    assert final.cells[0].text.ids == final.cells[2].text.ids
    assert any(isinstance(event, protocol.Progress) and set(event.columns) == {"0", "1", "2", "3"} for event in seen)
    for cell in final.cells:
        assert cell.error is None
        assert cell.perplexity is not None
        assert cell.perplexity > 1
        assert cell.concept == sum(i < 200 for i in cell.text.ids) / len(cell.text.ids)
    # A cell has the same text as a separate run.
    alone = answer(client, protocol.Generate(request=steer(), folders=folders))
    assert alone.columns["steered"].ids == final.cells[3].text.ids


def test_a_sweep_continues_when_one_strength_breaks_the_model(client: WorkerClient, folders: dict[str, str]) -> None:
    broken = Intervention(sae=SAE_ID, layer=2, latent=9, strength=1, max_act=3e37)
    request = SweepRequest(request=steer(interventions=(broken,)), strengths=(0, 100))
    final = answer(client, protocol.Sweep(request=request, folders=folders))
    assert isinstance(final, protocol.Swept)
    assert [bool(cell.error) for cell in final.cells] == [False, False, True]


def test_a_readout_of_a_stored_text(client: WorkerClient, folders: dict[str, str]) -> None:
    done = answer(client, protocol.Generate(request=steer(), folders=folders))
    started = next(e for e in asyncio.run(events(client, protocol.Generate(request=steer(), folders=folders)))
                   if isinstance(e, protocol.Started))
    ids = (*started.prompt.ids, *done.columns["steered"].ids)
    n = len(started.prompt.ids)
    final = answer(client, protocol.Readout(folders=folders, request=ReadoutRequest(
        request=steer(), ids=ids, prompt_tokens=n, positions=(n - 1, n), top=5)))
    assert isinstance(final, protocol.ReadOut)
    assert len(final.kl) == len(ids) == len(final.baseline_acts) == len(final.steered_acts)
    assert final.kl[n - 1 : -1] == done.columns["steered"].kl
    assert [table.position for table in final.tables] == [n - 1, n]
    assert all(5 <= len(table.rows) <= 10 for table in final.tables)
    prompt_alone = answer(client, protocol.Readout(request=ReadoutRequest(request=steer()), folders=folders))
    assert prompt_alone.ids == started.prompt.ids


def test_inspection_of_text_and_of_tokens(client: WorkerClient, folders: dict[str, str]) -> None:
    request = InspectRequest(model="demo", saes=(SAE_ID,), texts=("def main():\n    pass", "<|endoftext|> x"), top=4)
    final = answer(client, protocol.Inspect(request=request, folders=folders))
    assert isinstance(final, protocol.Inspected)
    for text in final.texts:
        assert text.special == [True, *[False] * (len(text.ids) - 1)]  # a special token spelled in a text is text
        (latents,) = text.saes
        assert len(latents.l0) == len(text.ids)
        assert len(latents.pos) == len(latents.lat) == len(latents.act)
    again = InspectRequest(model="demo", saes=(SAE_ID,), ids=(tuple(final.texts[0].ids),), top=4)
    assert answer(client, protocol.Inspect(request=again, folders=folders)).texts == final.texts[:1]


def test_effects_and_scores(client: WorkerClient, folders: dict[str, str]) -> None:
    contexts = tuple((0, *range(300 + n, 320 + n)) for n in range(3))
    seen = asyncio.run(events(client, protocol.Ablate(folders=folders, request=AblationRequest(
        model="demo", sae=SAE_ID, latent=9, contexts=contexts, n_random=2))))
    ablated = seen[-1]
    assert isinstance(ablated, protocol.Ablated)
    assert len(ablated.firings) == 3
    assert len(ablated.random) == 2
    assert [e.done for e in seen if isinstance(e, protocol.Part)][-1] == 1
    scored = answer(client, protocol.Score(folders=folders, request=ScoreRequest(
        model="demo", sae=SAE_ID, latents=(3, 4), max_acts=(5.0, 0.0))))
    assert isinstance(scored, protocol.Scored)
    assert [score.latent for score in scored.scores] == [3, 4]
    assert scored.scores[1].score is None


@pytest.mark.parametrize(("message", "field"), [
    (lambda f: protocol.Generate(request=steer(latent=48), folders=f), "latent"),
    (lambda f: protocol.Generate(
        request=steer(prompt="", chat=(ChatMessage(role="user", content="hi"),)), folders=f), "chat"),
    (lambda f: protocol.Generate(request=steer(), folders={}), "sae"),
    (lambda f: protocol.Generate(request=steer(sampling=Sampling(length=500)), folders=f), "length"),
    (lambda f: protocol.Readout(
        request=ReadoutRequest(request=steer(), ids=(0, 1), positions=(2,)), folders=f), "positions"),
    (lambda f: protocol.Readout(request=ReadoutRequest(request=steer(), ids=(0, 9000)), folders=f), "ids"),
    (lambda f: protocol.Inspect(request=InspectRequest(model="demo", saes=(SAE_ID,), texts=("x " * 9000,)), folders=f),
     "texts.0"),
    (lambda f: protocol.Ablate(
        request=AblationRequest(model="demo", sae=SAE_ID, latent=48, contexts=((0, 1),)), folders=f), "latent"),
    (lambda f: protocol.Score(request=ScoreRequest(model="demo", sae=SAE_ID, latents=(48,), max_acts=(1,)), folders=f),
     "latents.0"),
    (lambda f: protocol.Warm(model="/nowhere/at/all", folders=f), "model"),
])
def test_a_user_error_names_its_field(
    client: WorkerClient, folders: dict[str, str], message: Any, field: str
) -> None:
    final = answer(client, message(folders))
    assert isinstance(final, protocol.Failed)
    assert final.field == field


def test_the_worker_reports_what_it_has_loaded(client: WorkerClient, folders: dict[str, str]) -> None:
    assert isinstance(answer(client, protocol.Warm(model="demo", folders=folders)), protocol.Ready)
    report = asyncio.run(client.report())
    assert report is not None
    assert set(report.loaded) == {"demo", SAE_ID}
    assert report.memory > 20_000_000
    assert (report.waiting, report.pid) == (0, client.pid)


def varied(seed: int) -> SteerRequest:
    rng = random.Random(seed)
    interventions = tuple(
        Intervention(sae=SAE_ID, layer=2, latent=latent, mode=rng.choice(list(MODES)), strength=rng.uniform(-2, 2),
                     max_act=4.0) for latent in rng.sample(range(48), rng.randint(1, 3)))
    return SteerRequest(
        model="demo", prompt="".join(rng.choices(["def ", "\n", "self.", "é", "return x"], k=rng.randint(1, 20))),
        interventions=interventions, where=SteeredPositions(positions=rng.choice(["all", "output"])),
        samples=rng.choice([1, 2]),
        columns=rng.choice([("baseline", "steered"), ("baseline", "steered", "control")]),
        sampling=Sampling(length=rng.randint(2, 16), seed=seed, temperature=rng.choice([0, 1])))


def test_thirty_two_requests_at_once_get_the_same_texts_as_alone(client: WorkerClient, folders: dict[str, str]) -> None:
    messages = [protocol.Generate(request=varied(seed), folders=folders) for seed in range(32)]

    async def at_once() -> list[list[protocol.Event]]:
        async with asyncio.timeout(300):
            return await asyncio.gather(*(events(client, message) for message in messages))

    finals = [seen[-1] for seen in asyncio.run(at_once())]
    assert {type(final) for final in finals} == {protocol.Done}
    for message, final in zip(messages, finals, strict=True):
        assert answer(client, message).columns == final.columns  # type: ignore[union-attr]


def test_a_worker_on_a_port_serves_clients_with_its_token(tmp_path: Path, folders: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "token").write_text("sesame\n")
    worker = subprocess.Popen([sys.executable, "-m", "app.worker.server", "--listen", f"127.0.0.1:{port}",
                               "--token-file", str(tmp_path / "token"), "--threads", "1"], stderr=subprocess.DEVNULL)
    try:
        def client(token: str) -> WorkerClient:
            return WorkerClient(Settings(home=tmp_path, worker_address=f"127.0.0.1:{port}", worker_token=token))

        friend, message = client("sesame"), protocol.Generate(request=steer(), folders=folders)
        while isinstance(final := answer(friend, message), protocol.Failed):
            assert "does not answer" in final.message, final
            assert worker.poll() is None
        assert isinstance(final, protocol.Done)
        stranger = answer(client("guess"), message)
        assert isinstance(stranger, protocol.Failed)
        assert stranger.field == "worker_token"
    finally:
        worker.kill()
        worker.wait()
