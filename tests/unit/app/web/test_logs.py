"""Tests of the log's lines and of the requests' ids."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.web.logs import JsonLines, request_id


def test_a_record_is_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a.b", logging.ERROR, "x.py", 1, "it %s", ("broke",), sys.exc_info())
    token = request_id.set("abc")
    line = JsonLines().format(record)
    request_id.reset(token)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"], said["request"]) == ("ERROR", "a.b", "it broke", "abc")
    assert "ValueError: two" in said["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", said["time"])


def test_every_answer_has_an_id_and_keeps_a_usable_one(client: TestClient) -> None:
    first, second = (client.get(path).headers["x-request-id"] for path in ("/healthz", "/static/none.css"))
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first != second
    assert client.get("/healthz", headers={"X-Request-ID": "proxy-7"}).headers["x-request-id"] == "proxy-7"
    assert client.get("/healthz", headers={"X-Request-ID": "a b<c>"}).headers["x-request-id"] != "a b<c>"


def test_lines_of_requests_and_of_their_faults_share_the_id(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        logging.getLogger("test").warning("about to break")
        raise RuntimeError("a detail")

    caplog.handler.setFormatter(JsonLines())
    app = create_app(settings.model_copy(update={"log": "json"}), supervise=False)
    with caplog.at_level(logging.INFO), TestClient(app, raise_server_exceptions=False) as client:
        app.state.catalog.list_saes = broken
        answer = client.get("/api/saes", headers={"X-Request-ID": "id-1"})
    assert (answer.status_code, "Request: id-1" in answer.json()["error"]) == (500, True)
    lines = [json.loads(line) for line in caplog.text.splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("request") == "id-1"]
    assert {"about to break"} <= {line["message"] for line in about}
    (request,) = [line for line in about if "seconds" in line]
    assert (request["method"], request["path"], request["status"]) == ("GET", "/api/saes", 500)


def test_readiness_names_each_part(client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    assert client.get("/readyz").json()["checks"] == dict.fromkeys(
        ("database", "workspace", "disk", "worker", "supervisor"), "ok")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 3_000_000))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["disk"]) == (503, "only 3 MB are free")
    monkeypatch.undo()
    worker = client.app.state.worker  # type: ignore[attr-defined]
    worker._options = settings.model_copy(update={"worker_address": "127.0.0.1:1"})
    answer = client.get("/readyz")
    assert answer.status_code == 200, "pages work without the model"
    assert answer.json()["checks"]["worker"].startswith("the worker at 127.0.0.1:1 does not answer")


def test_a_public_address_without_an_administrator_is_warned_about() -> None:
    assert Settings(host="127.0.0.1").is_local
    assert Settings(host="::1").is_local
    assert not Settings(host="0.0.0.0").is_local
    assert not Settings(host="192.168.1.4").is_local
