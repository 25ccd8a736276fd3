"""The worker's connections, its bounded queue, and the model thread.  This module imports no torch.

The main thread talks to clients (asyncio).  The model thread executes up to `max_active` requests concurrently:
in every turn each of them gets one forward pass of its own, and all texts that are being generated get
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
_SLOW_CLIENT = 1 << 20  # a client with more unread bytes than this gets no progress events
_RETRY_AFTER_S = 5.0


class Serve(Protocol):
    """The executor of requests.  It is made and used on the model thread, except `report`."""

    def begin(self, message: Job, send: Send, cancelled: threading.Event) -> Iterator[None]:
        """Execute one request, with one forward pass between two yields, and send its events, the final one last.

        The iterator ends early if `cancelled` is set.  It raises UserError for a user error.
        """
        ...

    def step(self) -> None:
        """Generate the next token of every active text."""
        ...

    def reset(self) -> None:
        """Drop every active text, after a fault."""
        ...

    def report(self, waiting: int, going: int) -> Event: ...


class ActiveJob:
    """One request, waiting or active, and the connection that waits for its events."""

    def __init__(self, message: Job, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        self.message = message
        self.cancelled = threading.Event()
        self.ended = asyncio.Event()
        self.final = False  # whether the final event was sent; used only by the model thread
        self._writer, self._loop = writer, loop

    def send(self, event: Event) -> None:
        """Send an event, from any thread."""
        self.final = self.final or isinstance(event, Final)
        with contextlib.suppress(RuntimeError):  # the loop is closed when the process ends
            self._loop.call_soon_threadsafe(self._write, event)

    def _write(self, event: Event) -> None:
        transport = self._writer.transport
        slow = transport.get_write_buffer_size() > _SLOW_CLIENT
        if not transport.is_closing() and not (slow and isinstance(event, Progress)):
            self._writer.write(encode(event))
        if isinstance(event, Final):
            self.ended.set()


@dataclass(frozen=True)
class Address:
    """The address to listen on: a Unix socket, or a TCP port for clients that send the shared token."""

    socket: Path | None = None
    host: str = ""
    port: int = 0
    token: str = ""


class RequestQueue:
    """The queue of requests: at most `max_active` are active at once, and `max_waiting` more may wait."""

    def __init__(self, make_serve: Callable[[], Serve], max_waiting: int, max_active: int = 1) -> None:
        self._make_serve, self._max_waiting, self._max_active = make_serve, max_waiting, max_active
        self._waiting: list[ActiveJob] = []
        self._active: list[tuple[ActiveJob, Iterator[None]]] = []
        self._n_active = 0  # the number of jobs in `_active`, including those just admitted
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
            old_mask = os.umask(0o177)  # only this user may use the socket
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
            if self._token and not await self._knows_token(reader):
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
            log.info("a client disconnected before it sent a request")
        finally:
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()

    async def _knows_token(self, reader: asyncio.StreamReader) -> bool:
        hello = decode_command(await asyncio.wait_for(reader.readline(), 10))
        return isinstance(hello, Hello) and hmac.compare_digest(hello.token.encode(), self._token.encode())

    def _report(self) -> Event:
        with self._change:
            serve, waiting, active = self._serve, len(self._waiting), self._n_active
        return serve.report(waiting, active) if serve else Failed(message="the worker has had no request yet")

    async def _take(self, job: ActiveJob, reader: asyncio.StreamReader) -> None:
        if self._enqueue(job):
            await self._follow(job, reader)
        else:
            job.send(Busy(retry_after_s=_RETRY_AFTER_S))
            await job.ended.wait()

    async def _follow(self, job: ActiveJob, reader: asyncio.StreamReader) -> None:
        """Wait until the job has ended, and cancel it if the client sends a line or disconnects."""
        stop = asyncio.create_task(reader.readline())
        ended = asyncio.create_task(job.ended.wait())
        await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
        job.cancelled.set()
        self._leave(job)
        await ended
        stop.cancel()

    def _enqueue(self, job: ActiveJob) -> bool:
        with self._change:
            before = self._n_active + len(self._waiting)
            if before >= self._max_active + self._max_waiting:
                return False
            self._waiting.append(job)
            if before >= self._max_active:
                job.send(Queued(position=before - self._max_active + 1))
            self._change.notify()
        return True

    def _leave(self, job: ActiveJob) -> None:
        """End a job that is still waiting; the model thread ends an active one."""
        with self._change:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            self._send_positions()
        job.send(Done(columns={}, stopped=True, tokens=0, seconds=0))

    def _send_positions(self) -> None:
        for position, job in enumerate(self._waiting, start=1):
            job.send(Queued(position=position))

    # ---- model thread

    def _work(self) -> None:
        while True:
            for job in self._admitted():
                self._begin(job)
            self._turn()

    def _admitted(self) -> list[ActiveJob]:
        """Return the waiting jobs that become active now; wait for one if none is active."""
        with self._change:
            self._n_active = len(self._active)
            while not self._waiting and not self._active:
                self._change.wait()
            free = self._max_active - len(self._active)
            admitted, self._waiting = self._waiting[:free], self._waiting[free:]
            self._n_active += len(admitted)
            if admitted:
                self._send_positions()
        return admitted

    def _begin(self, job: ActiveJob) -> None:
        try:
            if self._serve is None:
                job.send(Loading(what="starting the model worker"))
                self._serve = self._make_serve()
            self._active.append((job, self._serve.begin(job.message, job.send, job.cancelled)))
        except Exception as error:  # a fault ends this job, not the thread
            self._fail(job, error)

    def _turn(self) -> None:
        try:
            if self._serve is not None:
                self._serve.step()
        except Exception as error:  # the texts share this step, so its fault ends every active job
            assert self._serve is not None
            self._serve.reset()
            for job, _ in self._active:
                self._fail(job, error)
            self._active = []
        self._active = [(job, work) for job, work in self._active if self._advance(job, work)]

    def _advance(self, job: ActiveJob, work: Iterator[None]) -> bool:
        try:
            next(work)
            return True
        except StopIteration:
            if not job.final:
                job.send(Failed(message="the model worker ended this request without an answer"))
        except Exception as error:  # a fault ends this job, not the others
            self._fail(job, error)
        return False

    def _fail(self, job: ActiveJob, error: Exception) -> None:
        """End a job with an error; log it unless it is a user error."""
        if isinstance(error, UserError):
            job.send(Failed(message=str(error), field=error.field))
            return
        log.error("a request failed", exc_info=error)
        job.send(Failed(message=f"the model worker failed: {type(error).__name__}: {error}"))
