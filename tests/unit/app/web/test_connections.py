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

LARGE = b"x" * 8_000_000
rendered: list[str] = []


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    rendered.append(scope["path"])
    body = LARGE if scope["path"].startswith("/large") else b"hello"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(connections, "STUCK_S", 0.3)
    rendered.clear()
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


def ask_for(client: socket.socket, *paths: str) -> None:
    client.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))


def take(client: socket.socket, size: int, pause: float = 0.0) -> int:
    """Read so many bytes, or all until the server closes the connection; return how many came."""
    taken = 0
    with suppress(ConnectionError):
        while taken < size and (part := client.recv(min(size - taken, 200_000))):
            taken += len(part)
            time.sleep(pause)
    return taken


def test_a_client_that_reads_no_answer_gets_one_rendered_and_is_disconnected(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        ask_for(client, "/large/1", "/large/2", "/large/3")
        client.settimeout(20)
        time.sleep(1)
        assert take(client, len(LARGE)) < len(LARGE)
    assert rendered == ["/large/1"]


def test_a_client_that_reads_slowly_gets_all_its_answers_in_order(port: int) -> None:
    head = len(b"HTTP/1.1 200 OK\r\n")
    with socket.create_connection(("127.0.0.1", port)) as client:
        ask_for(client, "/large/1", "/large/2", "/hello")
        client.settimeout(20)
        assert take(client, 2 * len(LARGE) + head, pause=0.01) == 2 * len(LARGE) + head
        answer = b""
        while not answer.endswith(b"hello"):
            answer += client.recv(65_536)
    assert rendered == ["/large/1", "/large/2", "/hello"]


def test_the_limit_of_open_files_is_raised_and_never_lowered() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections.allow_many_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == before[1]
    assert soft >= before[0]
