"""The supervisor: a thread that starts a process for each queued run and records the outcome.

Its knowledge of a run is the row, the process and the folder's `status.json`, and nothing else.  So it can
be killed at any moment, and the next supervisor continues:

- it adopts a process that is still running (its id *and* its start are stored);
- it records one that succeeded, however long ago;
- it marks one that vanished as lost and queues the run again, to resume from its checkpoint.  After
  `MAX_REQUEUES` such restarts without progress the run has failed.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import queue
from app.jobs.adopt import COMMAND_LINE, STOPPED, adopt_folders
from app.jobs.folders import last_line
from app.jobs.launchers import Handle, Launcher
from app.library.catalog import Catalog
from app.settings import Settings
from sae.runs.folder import RunFolder, Status

log = logging.getLogger(__name__)

MAX_REQUEUES = 3
SYNC_S = 5.0  # seconds between two checks for SAEs and runs from elsewhere
LINGER_S = 60.0  # a process that is still running this long after its final status is killed


class Supervisor:
    """The supervisor of all runs.  `tick()` checks each of them once."""

    def __init__(self, settings: Settings, sessions: SessionFactory, launcher: Launcher, catalog: Catalog) -> None:
        self.settings, self.sessions, self.launcher, self.catalog = settings, sessions, launcher, catalog
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._synced = 0.0

    def start(self) -> None:
        """Start the supervisor's thread."""
        with self.sessions() as db:
            queue.recover(db)
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    def healthy(self) -> bool:
        """Return whether the thread is running or was never started."""
        return self._thread is None or self._thread.is_alive()

    def wake(self) -> None:
        """Check the runs now, because one was queued or cancelled."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the thread and every run (checkpoint, then end); the runs resume at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._stop_runs()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.tick()
            except Exception:  # a full disk or a locked database is temporary, and the runs still need a supervisor
                log.exception("the supervisor could not check the runs; it tries again")
            self._wake.wait(self.settings.poll_s)

    def tick(self) -> None:
        """Check every active run, then start queued runs up to the limit."""
        with self.sessions() as db:
            for run in queue.active(db):
                self._watch(run)
        while not self._stopping.is_set():
            with self.sessions() as db:
                if len(queue.active(db)) >= self.settings.max_runs:
                    break
                claimed = queue.claim(db)
            if claimed is None:
                break
            self._launch(claimed)
        if time.monotonic() - self._synced >= SYNC_S:
            self._synced = time.monotonic()
            self.catalog.sync_if_changed()
            with self.sessions() as db:
                adopt_folders(db, self.settings.workspace, self.launcher)

    # -- one run -----------------------------------------------------------------------------

    def _folder(self, run: Run) -> RunFolder:
        return RunFolder(self.settings.workspace.run(run.id))

    def _launch(self, run: Run) -> None:
        folder = self._folder(run)
        try:
            folder.create(run.kind, run.spec)  # type: ignore[arg-type]  # checked when it was queued
            handle = self.launcher.start(folder)
        except OSError as error:
            self._end(run, "failed", f"the run could not be started: {error}")
            return
        log.info("%s: started as process %d", run.id, handle.pid)
        self._step(run, started=run.started or time.time(), pid=handle.pid, pid_started=handle.started)

    def _watch(self, run: Run) -> None:
        status = self._status(run)
        handle = self._handle(run, status)
        if handle is None or not self.launcher.alive(handle):
            # The process may have written its final status after the first read.
            self._gone(run, self._status(run))
            return
        if run.cancel_asked is not None:
            self._enforce_cancel(run, handle)
        if status is None:
            return
        if status.state in queue.FINISHED and time.time() - status.heartbeat > LINGER_S:
            self.launcher.kill(handle)
        if run.state == "starting" or status.overall > run.progress:
            self._step(run, state="running", progress=max(run.progress, status.overall))

    def _handle(self, run: Run, status: Status | None) -> Handle | None:
        if run.pid is not None:
            return Handle(run.pid, run.pid_started or "")
        # A server that was killed between starting the process and storing its id leaves none here.  The
        # run's status has the id, and a recent heartbeat shows that it is still the same process.
        if status is None or status.pid is None or time.time() - status.heartbeat > 10:
            return None
        handle = self.launcher.find(status.pid)
        if handle is not None:
            self._step(run, pid=handle.pid, pid_started=handle.started)
        return handle

    def _status(self, run: Run) -> Status | None:
        """Return the status if the present process wrote it, and None if an earlier one did."""
        status = self._folder(run).status()
        return status if status is not None and status.heartbeat >= (run.launched or 0.0) else None

    def _enforce_cancel(self, run: Run, handle: Handle) -> None:
        """Request the cancellation by the cancel file first, then by SIGTERM, then by SIGKILL to the group."""
        waited = time.time() - (run.cancel_asked or 0.0)
        if waited > 2 * self.settings.cancel_grace_s:
            self.launcher.kill(handle)
        elif waited > self.settings.cancel_grace_s:
            self.launcher.terminate(handle)
        elif self._folder(run).path.is_dir():
            self._folder(run).request_cancel()

    def _gone(self, run: Run, status: Status | None) -> None:
        """Record the outcome of a run whose process has ended."""
        if status is None:  # a process that finds its run succeeded already writes no new status
            earlier = self._folder(run).status()
            status = earlier if earlier is not None and earlier.state == "succeeded" else None
        if status is not None:
            run.progress = max(run.progress, status.overall)
        if status is not None and status.state == "succeeded":
            self.catalog.sync()
            self._end(run, "succeeded", None, sae_id=status.result.get("sae") or run.sae_id, progress=1.0)
        elif run.cancel_asked is not None or self._folder(run).cancel_requested():
            self._end(run, "cancelled", None)
        elif status is not None and status.state == "failed":
            self._end(run, "failed", status.error or status.message or "the run failed without a reason")
        elif not self._folder(run).path.is_dir():
            self._end(run, "failed", "the run's folder was deleted while it was running")
        elif run.requested_by == COMMAND_LINE:
            self._end(run, "cancelled", STOPPED)
        else:
            self._requeue(run)

    def _requeue(self, run: Run) -> None:
        progressed = run.progress > run.requeue_mark
        turn = 1 if progressed else run.requeues + 1
        last = last_line(self._folder(run))
        if turn > MAX_REQUEUES:
            self._end(
                run, "failed",
                f"the process vanished {turn} times without progress; the last line of its log: {last}")
            return
        reason = f"the process vanished; the run resumes from its last checkpoint (last line of its log: {last})"
        log.warning("%s: %s", run.id, reason)
        if self._step(run, state="lost", error=reason, progress=run.progress, pid=None, pid_started=None):
            with self.sessions() as db:
                queue.transition(
                    db, run.id, {"lost"}, state="queued", requeues=turn, requeue_mark=run.progress)

    def _end(self, run: Run, state: str, error: str | None, **values: object) -> None:
        values.setdefault("progress", run.progress)
        self._step(run, state=state, error=error, finished=time.time(), pid=None, pid_started=None, **values)
        log.info("%s: %s%s", run.id, state, f": {error}" if error else "")

    def _step(self, run: Run, **values: object) -> bool:
        with self.sessions() as db:
            return queue.transition(db, run.id, queue.ACTIVE, **values)

    # -- the end of the server -----------------------------------------------------------------

    def _stop_runs(self) -> None:
        with self.sessions() as db:
            active = [
                (run, handle) for run in queue.active(db)
                if run.requested_by != COMMAND_LINE and (handle := self._handle(run, self._status(run)))]
        for _, handle in active:
            self.launcher.terminate(handle)
        deadline = time.monotonic() + self.settings.shutdown_grace_s
        while any(self.launcher.alive(handle) for _, handle in active) and time.monotonic() < deadline:
            time.sleep(0.05)
        for _, handle in active:
            self.launcher.kill(handle)
        for _, handle in active:
            with suppress(TimeoutError):
                self._wait_until_gone(handle)
        for run, _ in active:
            self._stopped(run)

    def _wait_until_gone(self, handle: Handle) -> None:
        deadline = time.monotonic() + 5
        while self.launcher.alive(handle):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)

    def _stopped(self, run: Run) -> None:
        """Queue a run that the server stopped, unless it ended in the meantime."""
        status = self._status(run)
        finished = status is not None and status.state in ("succeeded", "failed")
        if finished or run.cancel_asked is not None or not self._folder(run).path.is_dir():
            self._gone(run, status)
            return
        progress = max(run.progress, status.overall if status else 0.0)
        self._step(run, state="queued", progress=progress, pid=None, pid_started=None)
