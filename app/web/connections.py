"""Limits of connections: how many there may be, and how slowly a client may send a head or take an answer.

A head is limited in size by h11 (64 kB), a body by FastAPI (`max_body_size`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 4_000  # connections and requests at once; further ones are answered 503
HEAD_S = 20.0  # for the head of a request, from its first byte or from the connection
STUCK_S = 30.0  # without a byte of an answer that the client takes


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which closes connections whose client does not finish a head or take an answer.

    uvicorn waits for ever, so that a few thousand such clients would take all places.  It also begins with the next of
    several requests while the client has not taken the answer to the one before, and so keeps two large answers for a
    client that reads none, and renders the others when it has gone.
    """

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _next_waits = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()
        self._progress()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._progress()
        if self._next_waits:
            self._next_waits = False
            super().on_response_complete()

    def on_response_complete(self) -> None:
        if self.flow.write_paused and not self.transport.is_closing():
            self._next_waits = True  # until the client has taken this answer
        else:
            super().on_response_complete()

    def _await_progress(self) -> None:
        """Close the connection if the client takes nothing for a while."""
        unsent = self.transport.get_write_buffer_size()
        self._stuck = self.loop.call_later(STUCK_S, self._check_progress, unsent)

    def _check_progress(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() == unsent:
            self.transport.abort()
        else:
            self._await_progress()

    def _progress(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _watch(self) -> None:
        """Start the time of a head, or end it if there is a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._close)

    def _close(self) -> None:
        self._late = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def allow_many_files() -> None:
    """Raise the number of files that the process may have open, if the system lets it: each connection is one."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4 * MOST if hard == resource.RLIM_INFINITY else min(4 * MOST, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
