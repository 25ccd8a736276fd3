"""The progress of a run, and the requests to stop it.

A `Reporter` writes `status.json` (at most a few times a second) and appends to `progress.jsonl`.
Once the run is cancelled or interrupted, its next call raises, so that the run stops at a safe point.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import Any

from sae.errors import Cancelled, Interrupted
from sae.runs.folder import HEARTBEAT_S, RunFolder, Status
from sae.workspace.disk import is_full
from sae.workspace.files import HOST


class Reporter:
    """The progress of one run.  `phases` gives each phase's share of the whole run's time."""

    def __init__(self, folder: RunFolder, phases: dict[str, float]) -> None:
        self.folder = folder
        self.weights = phases
        attempt = os.environ.get("SAESCOPE_ATTEMPT", "")
        self.status = Status(
            state="running", phases=list(phases), pid=os.getpid(), host=HOST, started=time.time(),
            attempt=int(attempt) if attempt.isdecimal() else None)
        self._interrupted = False
        self._written = 0.0
        self._marks: deque[tuple[float, float]] = deque(maxlen=200)
        self.write()

    def catch_signals(self) -> None:
        """Let SIGTERM and SIGINT stop the run at its next safe point instead of at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._interrupted = True

    def begin(self, phase: str, total: float = 0, unit: str = "tokens", done: float = 0, message: str = "") -> None:
        """Start a phase; `done` is the part that an earlier, interrupted process finished."""
        status = self.status
        status.phase, status.done, status.total, status.unit = phase, done, total, unit
        status.rate, status.message = None, message
        self._marks.clear()
        self._marks.append((time.monotonic(), done))
        self.write()
        size, note = f": {total:,.0f} {unit}" if total else "", f" ({message})" if message else ""
        print(f"{phase}{size}{note}", flush=True)

    def update(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Record the progress of the phase.  Raises Cancelled or Interrupted."""
        status, now = self.status, time.monotonic()
        status.done = done
        if total is not None:
            status.total = total
        if message is not None:
            status.message = message
        self._marks.append((now, done))
        if now - self._written > HEARTBEAT_S / 2:
            self._estimate(now)
            self.write()
        self.check()

    def check(self) -> None:
        """Raise Cancelled or Interrupted if the run should stop."""
        if self._interrupted:
            raise Interrupted
        if self.folder.cancel_requested():
            raise Cancelled

    def row(self, **values: Any) -> None:
        """Append a row of curves."""
        self.folder.append_progress({"time": time.time(), "phase": self.status.phase, **values})

    def finish(self, state: str, error: str | None = None) -> None:
        """Write the last status."""
        status = self.status
        status.state, status.error, status.finished, status.eta_s = state, error, time.time(), None
        if state == "succeeded":
            status.overall, status.message = 1.0, ""
        self.write()

    def write(self) -> None:
        """Write the status.  On a full disk the old one stays; the run fails only when it cannot keep a result."""
        self._written = time.monotonic()
        try:
            self.folder.write_status(self.status)
        except OSError as error:
            if not is_full(error) or self.status.finished is not None:
                raise

    def beat(self) -> None:
        """Renew the heartbeat without raising Cancelled or Interrupted."""
        if time.monotonic() - self._written > HEARTBEAT_S / 2:
            self.write()

    def _estimate(self, now: float) -> None:
        """Estimate the rate over the last ten seconds, and from it and the phases' shares the time left."""
        status = self.status
        while len(self._marks) > 2 and now - self._marks[0][0] > 10:
            self._marks.popleft()
        (_then, before), span = self._marks[0], now - self._marks[0][0]
        status.rate = (status.done - before) / span if span > 0 and status.done > before else None
        share = min(1.0, status.done / status.total) if status.total else 0.0
        names = list(self.weights)
        index = names.index(status.phase)
        before_this = sum(self.weights[name] for name in names[:index])
        later = sum(self.weights[name] for name in names[index + 1 :])
        status.overall = (before_this + share * self.weights[status.phase]) / sum(self.weights.values())
        if status.rate and status.total:
            phase_seconds = status.total / status.rate
            status.eta_s = phase_seconds * (1 - share) + phase_seconds * later / self.weights[status.phase]


class Follower(Reporter):
    """The reporter of a process of rank > 0: it writes nothing, and only signals to this process stop it."""

    def begin(self, phase: str, total: float = 0, unit: str = "tokens", done: float = 0, message: str = "") -> None:
        self.status.phase, self.status.total, self.status.done = phase, total, done

    def check(self) -> None:
        if self._interrupted:
            raise Interrupted

    def row(self, **values: Any) -> None:
        pass

    def write(self) -> None:
        self._written = time.monotonic()
