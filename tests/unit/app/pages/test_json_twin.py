"""Tests of the JSON of pages, and of its caching."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.unit.app.conftest import BATCH


def test_answers_of_the_build_alone_are_cached_by_it(browsable: TestClient) -> None:
    first = browsable.get(f"/{BATCH}/4.json")
    tag = first.headers["ETag"]
    assert "index-1" in tag
    again = browsable.get(f"/{BATCH}/4.json", headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert again.content == b""
    assert browsable.get(f"/{BATCH}/4.json", headers={"If-None-Match": '"other"'}).status_code == 200
    named = browsable.get(f"/{BATCH}/4.json?build=index-1")
    assert "immutable" in named.headers["Cache-Control"]
    assert "immutable" not in first.headers["Cache-Control"]


def test_the_description_names_every_twin(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/{model}/{name}/latents.json", "/{model}/{name}/{number}.json", "/compare.json", "/search.json",
            "/{model}/{name}/map.json", "/{model}/{name}/tokens/{sample}/{position}.json", "/index.json", "/runs.json",
            "/runs/{run_id}.json", "/{model}/{name}/{number}/source/{ctx}.json",
            "/inspect/{model}/{name}/{number}.json"} <= set(paths)
    assert "/{model}/{name}/latents" not in paths
