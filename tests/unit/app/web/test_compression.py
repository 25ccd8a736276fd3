"""Tests of compression: the same bytes come back, and only where the browser and the size ask for it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web.compression import COMPRESS

PAGE = bytes(range(256)) * 40


def whole(request: Request) -> Response:
    return Response(PAGE[: int(request.query_params["n"])], media_type="text/html")


def stream(request: Request) -> Response:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(PAGE), 1000):
            yield PAGE[start : start + 1000]

    return StreamingResponse(chunks(), media_type="text/html")


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=[Route("/whole", whole), Route("/stream", stream)], middleware=[COMPRESS]))


@pytest.mark.parametrize("path", [f"/whole?n={len(PAGE)}", "/stream"])
def test_a_large_answer_is_compressed_and_comes_back(client: TestClient, path: str) -> None:
    with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in answer.headers["vary"].lower()
    assert gzip.decompress(raw) == PAGE
    assert len(raw) < len(PAGE) / 5


@pytest.mark.parametrize(("path", "accept"), [("/whole?n=999", "gzip"), ("/whole?n=5000", "identity")])
def test_small_answers_and_plain_readers_get_plain_bytes(client: TestClient, path: str, accept: str) -> None:
    answer = client.get(path, headers={"accept-encoding": accept})
    assert "content-encoding" not in answer.headers
    assert PAGE.startswith(answer.content)
