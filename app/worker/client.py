"""The web process's end of the model worker.  It imports no torch.

The first request starts the worker, and a request after its death starts it again.  The worker's standard input is
a pipe that is never written to: when this process ends, in whatever way, the pipe closes and the worker ends too.
If the settings give an address, the client uses the worker there and does not start one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from app.worker.protocol import (
    MAX_LINE,
    Event,
    Failed,
    Final,
    Hello,
    Job,
    Loading,
    Report,
    Status,
    Stop,
    decode_event,
    encode,
    socket_path,
)
from sae.workspace.priority import MODEL_WORKER, yield_processor

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0
_LOG_TAIL = 600


class Options(Protocol):
    """The settings that the worker needs."""

    @property
    def home(self) -> Path: ...
    @property
    def worker_threads(self) -> int: ...
    @property
    def worker_memory_mb(self) -> int: ...
    @property
    def worker_queue(self) -> int: ...
    @property
    def worker_places(self) -> int: ...
    @property
    def worker_device(self) -> str: ...
    @property
    def worker_address(self) -> str: ...
    @property
    def worker_token(self) -> str: ...


class WorkerUnavailable(Exception):
    """A worker process that cannot be reached; the message is for the user."""


class WorkerClient:
    """The client that starts the worker when it is needed and sends it requests.  It may be made on any thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Return the id of the worker's process, or None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def condition(self) -> str:
        """Return "ok" if a request could be sent, and what is wrong otherwise.

        A worker that has not been started is no fault, because the first request starts it.  Nor is one that ended,
        unless it failed.  A worker on another host is asked by connecting to it.
        """
        if self._options.worker_address:
            host, _, port = self._options.worker_address.rpartition(":")
            try:
                sockets.create_connection((host, int(port)), timeout=2).close()
            except OSError as error:
                return f"the worker at {self._options.worker_address} does not answer ({error})"
            return "ok"
        process = self._process
        code = process.poll() if process is not None else None
        return f"it ended with code {code}; the next request starts it again" if code else "ok"

    @property
    def log(self) -> Path:
        return self._options.home / "worker.log"

    async def ask(self, message: Job | Status, stop: asyncio.Event | None = None) -> AsyncIterator[Event]:
        """Yield the events of one request.  The last one is always a final event, even if the worker dies.

        Setting `stop` ends the request within one token, and so does leaving the iterator early.
        """
        if self.pid is None and not self._options.worker_address:
            yield Loading(what="starting the model worker")
        writer: asyncio.StreamWriter | None = None
        stopper: asyncio.Task[None] | None = None
        try:
            reader, writer = await self._connect()
            writer.write(encode(message))
            if stop is not None:
                stopper = asyncio.create_task(_send_stop(stop, writer))
            while line := await reader.readline():
                event = decode_event(line)
                yield event
                if isinstance(event, Final):
                    return
            yield await asyncio.to_thread(self._gone)
        except WorkerUnavailable as error:
            yield Failed(message=str(error), gone=True)
        except (OSError, ValidationError, ValueError):
            yield await asyncio.to_thread(self._gone)
        finally:
            if stopper is not None:
                stopper.cancel()
            if writer is not None:
                writer.close()

    async def report(self) -> Report | None:
        """Return the worker's loaded models and active requests, or None if it is not running."""
        if self.pid is None and not self._options.worker_address:
            return None
        async for event in self.ask(Status()):
            if isinstance(event, Report):
                return event
        return None

    def close(self) -> None:
        """End the worker and wait for its end.  Later requests do not start it again."""
        with self._lock:
            self._closed = True
            self._end()

    # ---- the process

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._options.worker_address:
            return await self._connect_far()
        path = await asyncio.to_thread(self._ensure)
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while True:
            try:
                return await asyncio.open_unix_connection(path, limit=MAX_LINE)
            except (FileNotFoundError, ConnectionRefusedError):
                if self.pid is None:
                    raise WorkerUnavailable(
                        f"The model worker ended while it was starting. The end of {self.log} gives the reason: "
                        f"{self._log_tail()}") from None
                if asyncio.get_running_loop().time() > deadline:
                    raise WorkerUnavailable(
                        f"The model worker did not start within {_START_TIMEOUT_S:.0f} s; see {self.log}.") from None
                await asyncio.sleep(0.05)

    async def _connect_far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._options.worker_address.rpartition(":")
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port), limit=MAX_LINE), 10)
        except (OSError, TimeoutError) as error:
            raise WorkerUnavailable(
                f"The model worker at {self._options.worker_address} does not answer ({error or 'no reply'}); "
                "start it on that host, or try again.") from None
        writer.write(encode(Hello(token=self._options.worker_token)))
        return reader, writer

    def _ensure(self) -> Path:
        """Start the worker unless it is running, and return the path of its socket, which may not exist yet."""
        with self._lock:
            if self._closed:
                raise WorkerUnavailable("The program is stopping.")
            if self.pid is None or self._socket is None:
                self._end()
                self._socket = socket_path(self._options.home)
                self._process = self._start(self._socket)
            return self._socket

    def _start(self, socket: Path) -> subprocess.Popen[bytes]:
        o = self._options
        command = [
            sys.executable, "-m", "app.worker.server", "--socket", str(socket), "--threads", str(o.worker_threads),
            "--memory-mb", str(o.worker_memory_mb), "--queue", str(o.worker_queue), "--places", str(o.worker_places),
            "--device", o.worker_device]
        o.home.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as log:
            # The worker gets its own session, so that Ctrl-C in the terminal reaches only the server.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "SAESCOPE_HOME": str(o.home)})
        yield_processor(process.pid, MODEL_WORKER)
        return process

    def _end(self) -> None:
        process, socket = self._process, self._socket
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if socket is not None:
            socket.unlink(missing_ok=True)
            if socket.parent != self._options.home:
                with contextlib.suppress(OSError):
                    os.rmdir(socket.parent)
        self._process = self._socket = None

    def _gone(self) -> Failed:
        """Return the event for a connection that ended before the request did."""
        process = self._process
        reason = "the connection to it broke"
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            code = process.poll()
            if code is not None:
                reason = f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
        return Failed(
            message=f"The model worker stopped during this request ({reason}). "
            "The next run starts it again.", gone=True)

    def _log_tail(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip() or "(it is empty)"
        except OSError:
            return "(there is none)"


async def _send_stop(stop: asyncio.Event, writer: asyncio.StreamWriter) -> None:
    await stop.wait()
    writer.write(encode(Stop()))
