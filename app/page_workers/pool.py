"""The server's end of the readers: starts them, gives each one request at a time, replaces those that die."""

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

_WAIT_S = 5.0  # for a reader that is free; after it the server answers by itself
_END_S = 5.0
_AGAIN_S = 1.0  # before one that ended is replaced

log = logging.getLogger(__name__)


class _PageWorker:
    """One process, started and ready."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
    ) -> None:
        self.process, self._reader, self._writer = process, reader, writer

    @classmethod
    async def start(cls, settings: Settings) -> _PageWorker:
        """Raises OSError or IncompleteReadError where it does not come up."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.page_workers.process", str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        self = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            await self.ask(settings.model_dump_json(by_alias=False).encode())
        except BaseException:
            await self.close()
            raise
        return self

    async def ask(self, content: bytes) -> bytes:
        self._writer.write(frame(content))
        return await read_frame(self._reader)

    def hang_up(self) -> None:
        """It ends with its socket."""
        self._writer.close()

    async def close(self) -> None:
        """End it and wait for it."""
        self.hang_up()
        await asyncio.shield(asyncio.to_thread(_end, self.process))


class PageWorkerPool:
    """`n` readers.  Made and used on the event loop."""

    def __init__(self, settings: Settings, n: int) -> None:
        self._settings = settings
        self._ready: set[_PageWorker] = set()
        self._free: asyncio.LifoQueue[_PageWorker] = asyncio.LifoQueue()  # the one used last has its caches warm
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(n)]

    @property
    def pids(self) -> list[int]:
        """The processes that are ready."""
        return [reader.process.pid for reader in self._ready]

    async def ask(self, scope: Any) -> Answer | None:
        """A reader's answer to a GET request; None where there is none to be had."""
        try:
            async with asyncio.timeout(_WAIT_S):
                while self._ready:
                    reader = await self._free.get()
                    if reader in self._ready:
                        break
                else:
                    return None
        except TimeoutError:
            return None
        try:
            answer: Answer = marshal.loads(await reader.ask(scope_frame(scope)))
        except BaseException as error:  # in the middle of an answer it is of no more use
            self._ready.discard(reader)
            reader.hang_up()
            if isinstance(error, OSError | EOFError):
                return None
            raise
        self._free.put_nowait(reader)
        return answer

    async def close(self) -> None:
        """End them all and wait for them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self) -> None:
        """One reader after the other, each until it ends."""
        while True:
            try:
                reader = await _PageWorker.start(self._settings)
            except (OSError, EOFError) as error:
                log.warning("a reader did not start (%s); the server makes its pages", error)
            else:
                self._ready.add(reader)
                self._free.put_nowait(reader)
                try:
                    code = await asyncio.to_thread(reader.process.wait)
                    log.warning("a reader ended (%d); another one is started", code)
                finally:
                    self._ready.discard(reader)
                    await reader.close()
            await asyncio.sleep(_AGAIN_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
