"""Tests of exports: what is offered, and the limits on their number and size."""

from __future__ import annotations

import asyncio
import io
import shutil
import zipfile
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.responses import StreamingResponse

from app.db.tables import Sae
from app.library.builds import Builds
from app.library.exports import Downloads, links_of_latent, links_of_sae
from sae.formats.writers.kinds import KINDS
from sae.workspace.paths import Workspace
from tests.builds import Synthetic
from tests.unit.app.conftest import BATCH, sae_config, write_sae


def sae_of(current_build: str | None = "index-1", **changes: object) -> Sae:
    config: Any = sae_config(BATCH, **changes)
    model, _, name = BATCH.partition("/")
    return Sae(id=BATCH, model=model, name=name, config=config, current_build=current_build)


def kinds(sae: Sae) -> set[str]:
    links = links_of_sae(sae)
    assert all(name and said for name, _, said in links)
    return {href.removeprefix(f"/{BATCH}/export/").removesuffix(".zip") for _, href, _ in links}


def test_only_what_can_be_exported_is_offered() -> None:
    assert kinds(sae_of()) == set(KINDS)
    weights = {kind for kind, about in KINDS.items() if about.of == "weights"}
    assert kinds(sae_of(None)) == weights
    board = kinds(sae_of(weights="none"))
    assert board
    assert not board & weights
    assert kinds(sae_of(None, weights="none")) == set()


def test_a_latent_without_weights_has_no_vector() -> None:
    hrefs = [href for _, href, _ in links_of_latent(sae_of(), 7)]
    assert f"/{BATCH}/7.npy" in hrefs
    assert "/api/feature/demo/2-res-batchtopk-4k/7" in hrefs
    assert [href for _, href, _ in links_of_latent(sae_of(weights="none"), 7)] == hrefs[:-1]


@pytest.fixture
def indexed(workspace: Workspace, made: dict[str, Synthetic]) -> Workspace:
    write_sae(workspace, BATCH, n_latents=160)
    path = workspace.build(BATCH, "index-1")
    path.parent.mkdir(parents=True)
    shutil.copy(made[BATCH].path, path)
    return workspace


def start(
    downloads: Downloads, workspace: Workspace, kind: str = "parquet", sae: Sae | None = None,
) -> StreamingResponse:
    response = downloads.start(kind, sae or sae_of(), workspace, Builds(workspace), {})
    assert isinstance(response, StreamingResponse)
    return response


def body_of(response: StreamingResponse) -> bytes:
    async def read() -> bytes:
        return b"".join([bytes(chunk) async for chunk in response.body_iterator])  # type: ignore[arg-type]

    return asyncio.run(read())


def status_of(downloads: Downloads, workspace: Workspace, kind: str = "parquet", sae: Sae | None = None) -> int:
    with pytest.raises(HTTPException) as caught:
        start(downloads, workspace, kind, sae)
    return caught.value.status_code


def test_a_slot_is_taken_until_the_stream_has_ended(indexed: Workspace) -> None:
    downloads = Downloads(1, 10**9)
    response = start(downloads, indexed)
    assert response.headers["content-disposition"] == 'attachment; filename="2-res-batchtopk-4k-parquet.zip"'
    assert status_of(downloads, indexed) == 503
    archive = zipfile.ZipFile(io.BytesIO(body_of(response)))
    assert archive.testzip() is None
    assert "2-res-batchtopk-4k-parquet/latent.parquet" in archive.namelist()
    body_of(start(downloads, indexed))


def test_a_reader_who_leaves_gives_the_slot_back(indexed: Workspace) -> None:
    downloads = Downloads(1, 10**9)
    response = start(downloads, indexed)
    del response  # as a server does when the browser disconnects
    body_of(start(downloads, indexed))


def test_a_browser_that_disconnects_gives_the_slot_back_at_once(indexed: Workspace) -> None:
    """Check that the slot is free although the interrupted response is still referenced, as in a cycle of objects."""
    downloads = Downloads(1, 10**9)
    response = start(downloads, indexed)

    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def wait_for_the_browser(message: object) -> None:
        await asyncio.sleep(60)

    scope = {"type": "http", "method": "GET", "path": "/", "asgi": {"spec_version": "2.3"}}
    asyncio.run(response(scope, leave, wait_for_the_browser))
    body_of(start(downloads, indexed))
    assert response.status_code == 200


def test_a_refused_export_takes_no_slot(indexed: Workspace) -> None:
    downloads = Downloads(1, 10**9)
    gone = sae_of("index-2")
    for kind, sae in (("npz", None), ("saelens", sae_of(weights="none")), ("parquet", sae_of(None)), ("parquet", gone)):
        assert status_of(downloads, indexed, kind, sae) == 404
    body_of(start(downloads, indexed))
    assert status_of(Downloads(1, 1000), indexed) == 413
