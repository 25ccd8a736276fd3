"""The worker's front desk: connections, the bounded queue, and the one thread that serves it.  No torch.

The main thread speaks to clients (asyncio).  The model thread takes one request after the other
and hands it to `Serve`, which is made on that thread, since it will own the language models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from app.worker.protocol import (
    MAX_LINE,
    Busy,
    Done,
    Event,
    Failed,
    Final,
    Generate,
    Loading,
    Progress,
    Queued,
    decode_command,
    encode,
)
from sae.errors import UserError

Send = Callable[[Event], None]
# Does one request: sends its events, `Done` last, and leaves early where the flag is set.
Serve = Callable[[Generate, Send, threading.Event], None]

log = logging.getLogger("saescope.worker")
_SLOW_READER = 1 << 20  # bytes unread by a client beyond which progress is passed over
_RETRY_AFTER_S = 5.0


class _Job:
    """One request and the connection that waits for it."""

    def __init__(self, message: Generate, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.cancelled = threading.Event()
        self.ended = asyncio.Event()
        self._writer, self._loop = writer, loop

    def send(self, event: Event) -> None:
        """Send from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._write, event)

    def _write(self, event: Event) -> None:
        transport = self._writer.transport
        slow = transport.get_write_buffer_size() > _SLOW_READER
        if not transport.is_closing() and not (slow and isinstance(event, Progress)):
            self._writer.write(encode(event))
        if isinstance(event, Final):
            self.ended.set()


class Desk:
    """Takes requests into a bounded queue of `room` places, which the model thread empties one by one."""

    def __init__(self, make_serve: Callable[[], Serve], room: int) -> None:
        self._make_serve, self._room = make_serve, room
        self._waiting: list[_Job] = []
        self._lock = threading.Lock()
        self._some = threading.Semaphore(0)

    # ---- main thread

    async def serve(self, path: Path, ended: asyncio.Event) -> None:
        """Listen on the Unix socket `path` until `ended` is set."""
        path.unlink(missing_ok=True)
        old_mask = os.umask(0o177)  # the socket is for this user alone
        server = await asyncio.start_unix_server(self._connection, path, limit=MAX_LINE)
        os.umask(old_mask)
        threading.Thread(target=self._serve_queue, name="models", daemon=True).start()
        try:
            await ended.wait()
        finally:
            server.close()
            path.unlink(missing_ok=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            message = decode_command(await reader.readline())
            if isinstance(message, Generate):
                await self._take(_Job(message, writer, asyncio.get_running_loop()), reader)
        except (ValidationError, ValueError) as error:
            writer.write(encode(Failed(message=f"the model worker does not understand this: {error}")))
        except ConnectionError:
            log.info("a client left before it had asked")
        finally:
            writer.close()

    async def _take(self, job: _Job, reader: asyncio.StreamReader) -> None:
        if self._enqueue(job):
            await self._follow(job, reader)
        else:
            job.send(Busy(retry_after_s=_RETRY_AFTER_S))
            await job.ended.wait()

    async def _follow(self, job: _Job, reader: asyncio.StreamReader) -> None:
        """Until the job has ended: any line, and the end of the connection, mean stop."""
        stop = asyncio.create_task(reader.readline())
        ended = asyncio.create_task(job.ended.wait())
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        job.cancelled.set()
        self._leave(job)
        await ended
        stop.cancel()

    def _enqueue(self, job: _Job) -> bool:
        with self._lock:
            if len(self._waiting) >= self._room:
                return False
            self._waiting.append(job)
            job.send(Queued(position=len(self._waiting)))
        self._some.release()
        return True

    def _leave(self, job: _Job) -> None:
        """End a job that still waits; one that the model thread has is its to end."""
        with self._lock:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            self._tell_positions()
        job.send(Done(columns={}, stopped=True, tokens=0, seconds=0))

    def _tell_positions(self) -> None:
        for position, job in enumerate(self._waiting, start=1):
            job.send(Queued(position=position))

    # ---- model thread

    def _serve_queue(self) -> None:
        serve: Serve | None = None
        while True:
            self._some.acquire()
            with self._lock:
                if not self._waiting:  # the one that was signalled has left
                    continue
                job = self._waiting.pop(0)
                self._tell_positions()
            try:
                if serve is None:
                    job.send(Loading(what="starting the model worker"))
                    serve = self._make_serve()
                serve(job.message, job.send, job.cancelled)
            except UserError as error:
                job.send(Failed(message=str(error), field=error.field))
            except Exception as error:
                log.exception("a request failed")
                job.send(Failed(message=f"the model worker failed: {type(error).__name__}: {error}"))
