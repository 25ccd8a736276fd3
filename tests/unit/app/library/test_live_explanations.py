"""Explanations that are being written: one for a latent at a time, a few in all, each kept when it is complete."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from app.library.live_explanations import AT_ONCE, KEPT, LiveExplanation, LiveExplanations
from sae.errors import UserError
from sae.explain import results
from sae.explain.endpoint_settings import Endpoint
from sae.explain.records import Explanation
from sae.workspace.paths import Workspace
from tests.chat_server import chat_server
from tests.unit.app.conftest import BATCH, write_sae

MESSAGES = [{"role": "user", "content": "What is it?"}]


def test_a_latent_is_asked_about_once_at_a_time_and_few_at_all(workspace: Workspace) -> None:
    write_sae(workspace, BATCH)
    live = LiveExplanations(workspace)
    with chat_server(lambda messages: json.dumps({"explanation": "a cat"}), delay_s=0.3) as server:
        endpoint = Endpoint(server.address, "m")
        started = [live.start(BATCH, latent, MESSAGES, "p-1", endpoint) for latent in range(AT_ONCE)]
        assert live.start(BATCH, 1, MESSAGES, "p-1", endpoint) is started[1]
        with pytest.raises(UserError, match="being written") as busy:
            live.start(BATCH, AT_ONCE, MESSAGES, "p-1", endpoint)
        assert busy.value.field == "model"
        assert all(one.done.wait(20) for one in started)
        assert len(server.served) == AT_ONCE
        again = live.start(BATCH, 1, MESSAGES, "p-1", endpoint)
        assert again is not started[1]
        assert again.done.wait(20)
    made = results.read(workspace.sae(BATCH))[0]
    assert [one.text for one in made if isinstance(one, Explanation)] == ["a cat"] * (AT_ONCE + 1)
    assert len({one.id for one in made if isinstance(one, Explanation)}) == AT_ONCE  # the same text has the same id
    assert live.get(again.id) is again
    assert live.get("none") is None


def test_old_ones_are_forgotten(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveExplanations(workspace)
    monkeypatch.setattr(live, "_write", lambda one, *rest: one.done.set())
    started = []
    for latent in range(KEPT + 3):
        started.append(live.start(BATCH, latent, MESSAGES, "p-1", Endpoint("http://h", "m")))
        assert started[-1].done.wait(20)
    assert live.get(started[0].id) is None
    assert live.get(started[-1].id) is started[-1]
    assert len(live._found) <= KEPT + 1


def test_whoever_watches_sees_the_growing_text_and_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.library.live_explanations._POLL_S", 0.001)
    one = LiveExplanation("id", BATCH, 3, "m")

    async def watch() -> list[str]:
        seen = []
        async for text in one.watch():
            seen.append(text)
            if len(seen) == 1:
                one.text = "a"
            elif text == "a":
                one.text = "a cat"
                one.done.set()
        return seen

    began = time.monotonic()
    assert asyncio.run(watch()) == ["", "a", "a cat"]
    assert time.monotonic() - began < 10
