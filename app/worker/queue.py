"""The worker's front desk: connections, the bounded queue, and the one thread that does the work.  No torch.

The main thread speaks to clients (asyncio).  The model thread does up to `max_active` requests at once:
in every turn each of them gets one forward pass of its own, and all texts that are being written get
their next token together.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from app.worker.protocol import (
    MAX_LINE,
    Busy,
    Done,
    Event,
    Failed,
    Final,
    Hello,
    Job,
    Loading,
    Progress,
    Queued,
    Status,
    Stop,
    decode_command,
    encode,
)
from sae.errors import UserError
from sae.steering.request import user_error

Send = Callable[[Event], None]

log = logging.getLogger("saescope.worker")
_SLOW_READER = 1 << 20  # bytes unread by a client beyond which progress is passed over
_RETRY_AFTER_S = 5.0


class Serve(Protocol):
    """What does the work.  Made on the model thread and used there, `report` apart."""

    def begin(self, message: Job, send: Send, cancelled: threading.Event) -> Iterator[None]:
        """Do one request, a forward pass between two yields: its events, the final one last.  It ends early
        where the flag is set.  Raises UserError for what the user can mend."""
        ...

    def step(self) -> None:
        """The next token of every text that is being written."""
        ...

    def reset(self) -> None:
        """Forget every text that is being written, after a fault."""
        ...

    def report(self, waiting: int, going: int) -> Event: ...


class ActiveJob:
    """One request and the connection that waits for it."""

    def __init__(self, message: Job, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.cancelled = threading.Event()
        self.ended = asyncio.Event()
        self.final = False  # the model thread's own mark
        self._writer, self._loop = writer, loop

    def send(self, event: Event) -> None:
        """Send from any thread."""
        self.final = self.final or isinstance(event, Final)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._write, event)

    def _write(self, event: Event) -> None:
        transport = self._writer.transport
        slow = transport.get_write_buffer_size() > _SLOW_READER
        if not transport.is_closing() and not (slow and isinstance(event, Progress)):
            self._writer.write(encode(event))
        if isinstance(event, Final):
            self.ended.set()


@dataclass(frozen=True)
class Address:
    """Where to listen: a Unix socket, or a TCP port for whoever says the shared token."""

    socket: Path | None = None
    host: str = ""
    port: int = 0
    token: str = ""


class RequestQueue:
    """Takes requests: `max_active` at once, `max_waiting` more may wait."""

    def __init__(self, make_serve: Callable[[], Serve], max_waiting: int, max_active: int = 1) -> None:
        self._make_serve, self._max_waiting, self._max_active = make_serve, max_waiting, max_active
        self._waiting: list[ActiveJob] = []
        self._going: list[tuple[ActiveJob, Iterator[None]]] = []
        self._taken = 0  # as many as are in `_going`, or on their way there
        self._change = threading.Condition()
        self._serve: Serve | None = None

    # ---- main thread

    async def serve(self, address: Address | Path, ended: asyncio.Event) -> None:
        """Listen until `ended` is set."""
        at = Address(socket=address) if isinstance(address, Path) else address
        self._token = at.token if at.socket is None else ""
        if at.socket is None:
            server = await asyncio.start_server(self._connection, at.host, at.port, limit=MAX_LINE)
        else:
            at.socket.unlink(missing_ok=True)
            old_mask = os.umask(0o177)  # the socket is for this user alone
            server = await asyncio.start_unix_server(self._connection, at.socket, limit=MAX_LINE)
            os.umask(old_mask)
        threading.Thread(target=self._work, name="models", daemon=True).start()
        try:
            await ended.wait()
        finally:
            server.close()
            if at.socket is not None:
                at.socket.unlink(missing_ok=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._token and not await self._is_friend(reader):
                writer.write(encode(Failed(message="the model worker does not know this token", field="worker_token")))
                return
            message = decode_command(await reader.readline())
            if isinstance(message, Status):
                writer.write(encode(self._report()))
            elif not isinstance(message, Hello | Stop):
                await self._take(ActiveJob(message, writer, asyncio.get_running_loop()), reader)
        except ValidationError as error:
            fault = user_error(error)
            writer.write(encode(Failed(message=f"the model worker does not understand this: {fault}",
                                       field=fault.field)))
        except ValueError as error:
            writer.write(encode(Failed(message=f"the model worker does not understand this: {error}")))
        except ConnectionError:
            log.info("a client left before it had asked")
        finally:
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

    async def _is_friend(self, reader: asyncio.StreamReader) -> bool:
        hello = decode_command(await asyncio.wait_for(reader.readline(), 10))
        return isinstance(hello, Hello) and hmac.compare_digest(hello.token.encode(), self._token.encode())

    def _report(self) -> Event:
        with self._change:
            serve, waiting, going = self._serve, len(self._waiting), self._taken
        return serve.report(waiting, going) if serve else Failed(message="nothing has been asked of the worker yet")

    async def _take(self, job: ActiveJob, reader: asyncio.StreamReader) -> None:
        if self._enqueue(job):
            await self._follow(job, reader)
        else:
            job.send(Busy(retry_after_s=_RETRY_AFTER_S))
            await job.ended.wait()

    async def _follow(self, job: ActiveJob, reader: asyncio.StreamReader) -> None:
        """Until the job has ended: any line, and the end of the connection, mean stop."""
        stop = asyncio.create_task(reader.readline())
        ended = asyncio.create_task(job.ended.wait())
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        job.cancelled.set()
        self._leave(job)
        await ended
        stop.cancel()

    def _enqueue(self, job: ActiveJob) -> bool:
        with self._change:
            before = self._taken + len(self._waiting)
            if before >= self._max_active + self._max_waiting:
                return False
            self._waiting.append(job)
            if before >= self._max_active:
                job.send(Queued(position=before - self._max_active + 1))
            self._change.notify()
        return True

    def _leave(self, job: ActiveJob) -> None:
        """End a job that still waits; one that the model thread has is its to end."""
        with self._change:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            self._tell_positions()
        job.send(Done(columns={}, stopped=True, tokens=0, seconds=0))

    def _tell_positions(self) -> None:
        for position, job in enumerate(self._waiting, start=1):
            job.send(Queued(position=position))

    # ---- model thread

    def _work(self) -> None:
        while True:
            for job in self._admitted():
                self._begin(job)
            self._turn()

    def _admitted(self) -> list[ActiveJob]:
        """The requests that get a place now; waits for one where nothing else is going."""
        with self._change:
            self._taken = len(self._going)
            while not self._waiting and not self._going:
                self._change.wait()
            free = self._max_active - len(self._going)
            admitted, self._waiting = self._waiting[:free], self._waiting[free:]
            self._taken += len(admitted)
            if admitted:
                self._tell_positions()
        return admitted

    def _begin(self, job: ActiveJob) -> None:
        try:
            if self._serve is None:
                job.send(Loading(what="starting the model worker"))
                self._serve = self._make_serve()
            self._going.append((job, self._serve.begin(job.message, job.send, job.cancelled)))
        except Exception as error:
            self._fail(job, error)

    def _turn(self) -> None:
        try:
            if self._serve is not None:
                self._serve.step()
        except Exception as error:
            assert self._serve is not None
            self._serve.reset()
            for job, _ in self._going:
                self._fail(job, error)
            self._going = []
        self._going = [(job, work) for job, work in self._going if self._advance(job, work)]

    def _advance(self, job: ActiveJob, work: Iterator[None]) -> bool:
        try:
            next(work)
            return True
        except StopIteration:
            if not job.final:
                job.send(Failed(message="the model worker ended this without an answer"))
        except Exception as error:
            self._fail(job, error)
        return False

    def _fail(self, job: ActiveJob, error: Exception) -> None:
        if isinstance(error, UserError):
            job.send(Failed(message=str(error), field=error.field))
            return
        log.error("a request failed", exc_info=error)
        job.send(Failed(message=f"the model worker failed: {type(error).__name__}: {error}"))
