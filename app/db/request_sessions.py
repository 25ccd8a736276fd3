"""The database sessions of requests, and the places that bound how many of them hold a connection.

A handler takes several steps, each in a thread, and its session holds a connection between them.  If more requests did
so than there are connections, every thread could wait for a connection while those that have one wait for a thread.
So a request first waits for a place, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from sqlalchemy.orm import Session

from app.db.engine import SessionFactory

PLACES = 40  # fewer than the engine's connections: the rest serve sign-in and others that hold one for a moment
_HAS_PLACE = "has a place"

# A handler's thread may wait for a connection, so one is never given back in such a thread.
_ENDING = ThreadPoolExecutor(4, "end-transaction")


class RequestSessions:
    """The sessions of a program's requests.  Use it on the event loop."""

    def __init__(self, sessions: SessionFactory, places: int = PLACES) -> None:
        self._sessions, self._free = sessions, asyncio.Semaphore(places)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """Open a session once there is a place; at the end, roll back what was not committed."""
        db = self._sessions()
        await self._take_place(db)
        try:
            yield db
        finally:
            await self.leave(db)

    async def leave(self, db: Session) -> None:
        """Close the session and give its connection and its place to another request."""
        try:
            await _end(db, db.close)
        finally:
            self._give_place(db)

    @asynccontextmanager
    async def pause(self, db: Session) -> AsyncIterator[None]:
        """Commit, and give connection and place to another request for the duration of the block."""
        await _end(db, db.commit)
        self._give_place(db)
        try:
            yield
        finally:
            await self._take_place(db)

    async def _take_place(self, db: Session) -> None:
        await self._free.acquire()
        db.info[_HAS_PLACE] = True

    def _give_place(self, db: Session) -> None:
        if db.info.pop(_HAS_PLACE, False):
            self._free.release()


async def _end(db: Session, end: Callable[[], None]) -> None:
    if db.in_transaction():  # ending it talks to the database
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(_ENDING, end))
    else:
        end()
