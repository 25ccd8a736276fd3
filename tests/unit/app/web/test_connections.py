"""Tests of the limits of connections, over real sockets."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.web import connections


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(
        hello, http=connections.ImpatientProtocol, lifespan="off", log_config=None, limit_concurrency=4))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join()


def end_of(client: socket.socket) -> bytes:
    """Return what comes until the server closes the connection."""
    client.settimeout(20)
    return b"".join(iter(lambda: client.recv(4096), b""))


def test_a_head_that_is_never_finished_ends_the_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as silent, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        for _ in range(3):
            time.sleep(0.05)
            slow.sendall(b" x")  # each byte is progress, but not for ever
        assert end_of(silent) == end_of(slow) == b""


def test_requests_and_their_connection_go_on(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"hello"):
                answer += client.recv(4096)
        with suppress(ConnectionError):  # the server closes it before the whole was sent
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n")
            assert not end_of(client).startswith(b"HTTP/1.1 200")
    assert "Invalid HTTP request" in caplog.text, "a head has a largest size"


def test_the_limit_of_open_files_is_raised_and_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections.allow_many_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == before[1]
    assert soft >= before[0]
