"""The button that tests the connection to an endpoint."""

from __future__ import annotations

import html
import re

import pytest
from fastapi.testclient import TestClient

from tests.chat_server import chat_server

ADDRESS = "/admin/explain/connection"
KEY = "sk-test-0816"


def said(client: TestClient, values: dict[str, str], **headers: str) -> str:
    answer = client.post(ADDRESS, data=values, headers=headers)
    assert answer.status_code == 200
    assert KEY not in answer.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def test_it_says_what_the_endpoint_can(admin: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_LLM_KEY", KEY)
    assert f'hx-post="{ADDRESS}"' in admin.get("/admin/explain").text
    with chat_server(lambda messages: "yes") as server:
        values = {"address": server.address, "model": "test-model"}
        found = said(admin, values, **{"HX-Request": "true"})
        assert f"test-model answers at {server.address}" in found
        assert "token counts and probabilities of tokens" in found
        assert "Its models: test-model" in found
        assert "does not list this model" in said(admin, values | {"model": "other"})
        server.faults = lambda number: "401"
        assert "refuses the key" in said(admin, values)
    assert "address: " in said(admin, values)  # it is gone
    assert "address: " in said(admin, {"address": "ftp://x", "model": "m"})
    admin.cookies.clear()
    assert admin.post(ADDRESS, data=values).status_code == 401
