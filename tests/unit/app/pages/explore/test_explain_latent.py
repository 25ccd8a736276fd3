"""One latent explained while its page is open, against a server over HTTP."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from sae.explain import results
from sae.workspace.paths import Workspace
from tests.chat_server import ChatServer, chat_server
from tests.unit.app.conftest import BATCH

KEY = "sk-test-0815"
HTMX = {"HX-Request": "true"}
HERE = f"/{BATCH}/3/explanations/ask"
SAID = json.dumps({"explanation": "the <b>word</b> cat"})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    with chat_server(lambda messages: SAID) as server:
        monkeypatch.setenv("SAESCOPE_LLM_URL", server.address)
        monkeypatch.setenv("SAESCOPE_LLM_MODEL", "test-model")
        monkeypatch.setenv("SAESCOPE_LLM_KEY", KEY)
        yield server


def events(text: str) -> list[tuple[str, str]]:
    found = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        name = re.search(r"^event: ?(.*)$", block, re.MULTILINE)
        found.append((name[1] if name else "", "\n".join(re.findall(r"^data: ?(.*)$", block, re.MULTILINE))))
    return found


def test_the_answer_is_shown_as_it_comes_and_is_kept(
    browsable: TestClient, admin: TestClient, workspace: Workspace, endpoint: ChatServer
) -> None:
    assert "Explain with test-model" in admin.get(f"/{BATCH}/3").text
    part = admin.post(HERE, headers=HTMX)
    assert part.status_code == 200
    address = re.search(r'sse-connect="([^"]+)"', part.text)
    assert address
    stream = admin.get(address[1])
    assert KEY not in stream.text
    sent = events(stream.text)
    assert sent[-1] == ("done", "done")
    assert sent[-2][0] == "card"
    assert "the &lt;b&gt;word&lt;/b&gt; cat" in sent[-2][1]
    texts = [html.unescape(data) for name, data in sent if name == "text"]
    assert texts[-1] == SAID
    assert all("<b>" not in data for _, data in sent)
    [one] = admin.get(f"/{BATCH}/3.json").json()["explanations"]
    assert (one["text"], one["kind"], one["model"], one["prompt_version"]) == (
        "the <b>word</b> cat", "model", "test-model", "explain-1")
    assert len(results.read(workspace.sae(BATCH))[0]) == 1
    assert endpoint.served[0].body["stream"] is True
    assert "Strongest examples" in endpoint.served[0].messages[1]["content"]


def test_without_javascript_the_page_comes_when_it_is_complete(
    browsable: TestClient, admin: TestClient, endpoint: ChatServer
) -> None:
    answer = admin.post(HERE)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/{BATCH}/3#explanations")
    assert "the &lt;b&gt;word&lt;/b&gt; cat" in admin.get(f"/{BATCH}/3").text


def test_the_administrators_prompts_are_used(
    browsable: TestClient, admin: TestClient, endpoint: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "explain.txt").write_text("version: ours\n[user]\nLook here: {{top}}\n")
    monkeypatch.setenv("SAESCOPE_LLM_PROMPTS", str(tmp_path))
    assert admin.post(HERE).status_code == 303
    assert endpoint.served[0].messages[0]["content"].startswith("Look here: ")
    [one] = admin.get(f"/{BATCH}/3.json").json()["explanations"]
    assert one["prompt_version"].startswith("ours+")
    (tmp_path / "explain.txt").write_text("no version")
    refused = admin.post(HERE)
    assert refused.status_code == 422
    assert "does not begin with a line" in refused.text
    assert len(endpoint.served) == 1


@pytest.mark.parametrize(("fault", "said"), [("garbage", "cannot be read"), ("401", "refuses the key")])
def test_a_failure_is_said_and_nothing_is_kept(
    browsable: TestClient, admin: TestClient, workspace: Workspace, endpoint: ChatServer, fault: str, said: str
) -> None:
    endpoint.faults = lambda number: fault
    part = admin.post(HERE, headers=HTMX)
    address = re.search(r'sse-connect="([^"]+)"', part.text)
    assert address
    card = dict(events(admin.get(address[1]).text))["card"]
    assert said in card
    assert KEY not in card
    assert results.read(workspace.sae(BATCH))[0] == []
    assert admin.post(HERE).status_code == 502


def test_only_administrators_ask_and_only_with_an_endpoint(
    browsable: TestClient, admin: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAESCOPE_LLM_URL", raising=False)
    assert admin.post(HERE).status_code == 422
    page = admin.get(f"/{BATCH}/3").text
    assert "Explain with a model…" in page
    assert HERE not in page
    assert admin.get(f"{HERE}/none/events").status_code == 404
    admin.cookies.clear()
    assert admin.post(HERE).status_code == 401
    assert admin.get(f"{HERE}/none/events").status_code in (303, 401)
