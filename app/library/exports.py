"""Exports that are sent while they are made, with limits on their number and size.

A stream keeps its build open and holds its slot until it ends, or until the browser
disconnects and the stream is dropped.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from itertools import chain
from threading import BoundedSemaphore

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.db.tables import Sae
from app.library.builds import Builds
from app.render.numbers import size
from sae.errors import UserError
from sae.formats.writers.archive import stream_zip
from sae.formats.writers.kinds import KINDS, check_kind, members_of
from sae.formats.writers.neuronpedia import Explanation
from sae.workspace.paths import Workspace

RETRY_AFTER_S = 30


Link = tuple[str, str, str]  # name, address, description


def links_of_sae(sae: Sae) -> list[Link]:
    """Return the exports that an SAE and its newest build offer."""
    found = []
    for kind, about in KINDS.items():
        try:
            check_kind(kind, sae.config, has_build=sae.current_build is not None)
        except (UserError, KeyError):  # no weights, no build, or not expressible in that format
            continue
        found.append((f"{about.name}, zip", f"/{sae.id}/export/{kind}.zip", about.description))
    return found


def links_of_latent(sae: Sae, latent: int) -> list[Link]:
    """Return the exports that a latent offers."""
    here = f"/{sae.id}/{latent}"
    found = [("JSON", f"{here}.json", "everything on this page"),
             ("Neuronpedia JSON", f"/api/feature/{sae.model}/{sae.name}/{latent}", "the format of its /api/feature"),
             ("circuit-tracer JSON", f"{here}.circuit-tracer.json", "a feature file for attribution graphs")]
    if not sae.weightless:
        found.append(("decoder vector", f"{here}.npy", "float32, unit norm"))
    return found


class _Export(StreamingResponse):
    """A zip that is sent while it is made.  Its generator is closed at once when the browser disconnects.

    The interrupted tasks of a request refer to each other, so otherwise the generator, and with it the slot, would wait
    for the garbage collector.
    """

    def __init__(self, first: bytes, chunks: Generator[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(chain([first], chunks), media_type="application/zip", headers=headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._chunks.close()


class Downloads:
    """The active exports: at most `at_once`, each at most `max_bytes`."""

    def __init__(self, at_once: int, max_bytes: int) -> None:
        self._slots = BoundedSemaphore(at_once)
        self._max_bytes = max_bytes

    def start(
        self, kind: str, sae: Sae, workspace: Workspace, builds: Builds, labels: Mapping[int, Sequence[Explanation]],
    ) -> Response:
        """Return the export as a zip that is sent while it is made.

        Raises HTTPException 404 if there is no such export, 413 if it is too large to download, and 503 if all slots
        are taken.
        """
        try:
            check_kind(kind, sae.config, has_build=sae.current_build is not None)
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        self._check_size(kind, sae, workspace)
        if not self._slots.acquire(blocking=False):
            raise HTTPException(503, f"Other exports are being sent; try again in {RETRY_AFTER_S} s.",
                                {"Retry-After": str(RETRY_AFTER_S)})
        chunks = self._stream(kind, sae, workspace, builds, labels)
        try:
            first = next(chunks)  # once the stream has begun, its `finally` releases the slot in any case
        except UserError as error:
            raise HTTPException(404, str(error)) from None
        name = f"{sae.name}-{kind}.zip"
        return _Export(first, chunks, {
            "Content-Disposition": f'attachment; filename="{name}"', "Content-Encoding": "identity",
            "Cache-Control": "no-store"})

    def _check_size(self, kind: str, sae: Sae, workspace: Workspace) -> None:
        path = (workspace.build(sae.id, str(sae.current_build)) if KINDS[kind].of == "build"
                else workspace.sae(sae.id) / "sae.safetensors")
        n = path.stat().st_size if path.is_file() else 0
        if n > self._max_bytes:
            raise HTTPException(413, f"The export has {size(n)}, which is more than SAESCOPE_MAX_EXPORT_BYTES allows. "
                                     f"On the server, run: saescope export --sae {sae.id} --format {kind}")

    def _stream(
        self, kind: str, sae: Sae, workspace: Workspace, builds: Builds, labels: Mapping[int, Sequence[Explanation]],
    ) -> Generator[bytes]:
        try:
            folder, root = workspace.sae(sae.id), f"{sae.name}-{kind}"
            if KINDS[kind].of == "weights":
                yield from stream_zip(members_of(kind, folder, sae.config, None), root)
            else:
                with builds.use(sae.id, str(sae.current_build)) as build:
                    yield from stream_zip(members_of(kind, folder, sae.config, build, labels), root)
        finally:
            self._slots.release()
