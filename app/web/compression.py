"""Gzip by ISA-L, which takes a tenth of zlib's time: for a large page, zlib takes longer than reading its data."""

from __future__ import annotations

from typing import Any

from isal import isal_zlib
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware, GZipResponder
from starlette.types import Receive, Scope, Send


class Compress(GZipMiddleware):
    """Starlette's gzip middleware with ISA-L as the compressor; levels are 0 to 3."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "gzip" in Headers(scope=scope).get("accept-encoding", ""):
            responder = _Responder(self.app, self.minimum_size, self.compresslevel,
                                   exclude_content_types=self.exclude_content_types)
            await responder(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


COMPRESS = Middleware(Compress, minimum_size=1000, compresslevel=2)


class _Responder(GZipResponder):
    async def apply_compression(self, body: bytes, *, more_body: bool) -> bytes:
        return self._compress_body(body, more_body)  # fast enough to need no thread

    @property
    def compressor(self) -> Any:  # ISA-L's object has the same methods as zlib's
        if self._compressor is None:
            made: Any = isal_zlib.compressobj(self.compresslevel, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
            self._compressor = made
        return self._compressor
