"""The pool of page workers: it starts them, gives each one request at a time and replaces those that end."""

from __future__ import annotations

import asyncio
import logging
import marshal
import socket
import subprocess
import sys
from typing import Any

from app.page_workers.process import Answer, frame, read_frame, scope_frame
from app.settings import Settings
from app.web.turns import Turns, address_of

_WAIT_S = 5.0  # for an answer of any page worker to anybody; after that the server renders the page itself
_END_S = 5.0  # for the end of a process that should stop; after that it is killed
_RESTART_S = 1.0  # before a page worker that ended is replaced

log = logging.getLogger(__name__)


class _PageWorker:
    """One page worker's process that has started and is ready."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer

    @classmethod
    async def start(cls, settings: Settings) -> _PageWorker:
        """Start a process and wait until it is ready.  Raises OSError or IncompleteReadError if it fails to start."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.page_workers.process", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        self = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            await self.ask(settings.model_dump_json(by_alias=False).encode())
        except BaseException:  # also when cancelled: no process may be left behind
            await self.close()
            raise
        return self

    async def ask(self, content: bytes) -> bytes:
        """Send one frame and return the content of the frame that answers it."""
        self._writer.write(frame(content))
        return await read_frame(self._reader)

    def hang_up(self) -> None:
        """Close the socket, which ends the process."""
        self._writer.close()

    async def close(self) -> None:
        """End the process and wait for its end."""
        self.hang_up()
        await asyncio.shield(asyncio.to_thread(_end, self.process))


class PageWorkerPool:
    """A pool of `n` page workers.  It is made and used on the event loop."""

    def __init__(self, settings: Settings, n: int) -> None:
        self._settings = settings
        self._ready: set[_PageWorker] = set()
        self._free = Turns[_PageWorker]()  # the most recently used has warm caches and comes first
        self._answered = 0  # requests so far
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(n)]

    async def ask(self, scope: Any) -> Answer | None:
        """Return a page worker's answer to a GET request, or None if no page worker can answer."""
        worker = await self._borrow(address_of(scope))
        if worker is None:
            return None
        try:
            answer: Answer = marshal.loads(await worker.ask(scope_frame(scope)))
        except BaseException as error:  # its next frame would still be this answer, so it cannot be used again
            self._ready.discard(worker)
            worker.hang_up()
            if isinstance(error, OSError | EOFError):
                return None
            raise
        self._answered += 1
        self._free.give(worker)
        return answer

    async def _borrow(self, address: str) -> _PageWorker | None:
        """Return a free page worker, or None if there is none and none answers anything for a while.

        A request waits as long as the page workers answer others: in the server's own process it would delay them all.
        """
        turn = asyncio.ensure_future(self._free.borrow(address))
        try:
            while self._ready:
                answered = self._answered
                await asyncio.wait({turn}, timeout=_WAIT_S)
                if not turn.done():
                    if answered == self._answered:
                        return None
                elif turn.result() in self._ready:
                    return turn.result()
                else:  # its process has ended
                    turn = asyncio.ensure_future(self._free.borrow(address))
            return None
        except asyncio.CancelledError:
            if turn.done():
                self._free.give(turn.result())
            raise
        finally:
            turn.cancel()  # without effect if it is done

    async def close(self) -> None:
        """End all page workers and wait for their end."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self) -> None:
        """Keep one page worker running, replacing it whenever it ends."""
        while True:
            try:
                worker = await _PageWorker.start(self._settings)
            except (OSError, EOFError) as error:
                log.warning("a page worker did not start (%s); the server renders the pages itself", error)
            else:
                self._ready.add(worker)
                self._free.give(worker)
                try:
                    code = await asyncio.to_thread(worker.process.wait)
                    log.warning("a page worker ended (%d); another one is started", code)
                finally:
                    self._ready.discard(worker)
                    await worker.close()
            await asyncio.sleep(_RESTART_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
