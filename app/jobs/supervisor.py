"""The supervisor: a thread that starts a process for each queued run and records the outcome.

Its knowledge of a run is the row, the process and the folder's `status.json`, and nothing else.  So it can
be killed at any moment, and the next supervisor continues:

- it adopts a process that is still running (its launcher, its name there and a mark of its start are stored);
- it records one that succeeded, however long ago;
- it marks one that vanished as lost and queues the run again, to resume from its checkpoint.  After
  `MAX_REQUEUES` such restarts without progress the run has failed.

A cluster's record of a job may be wrong, late or lost.  The heartbeat in the run's folder then decides, and a process
id of another host never does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy.orm import Session

from app.db.engine import SessionFactory
from app.db.tables import Run
from app.jobs import parts, queue
from app.jobs.adopt import COMMAND_LINE, STOPPED, adopt_folders
from app.jobs.folders import last_line
from app.jobs.heartbeats import Heartbeats
from app.jobs.launchers import Cluster, ClusterAway, Handle, Launcher, Life
from app.jobs.launchers.local import LocalLauncher
from app.jobs.places import place_of
from app.library.catalog import Catalog
from app.servers.presence import Leadership, OnlyServer
from app.settings import Settings
from sae.runs.folder import RunFolder, Status

log = logging.getLogger(__name__)

MAX_REQUEUES = 3
SYNC_S = 5.0  # seconds between two checks for SAEs and runs from elsewhere
CLUSTERS_S = 10.0  # seconds between two looks at the state of the clusters
SILENT_HERE_S = 60.0  # the same, of a run that a server on another machine started
SILENT_S = 120.0  # a run of an unreachable place without a heartbeat for so long is not waited for
LINGER_S = 60.0  # a process that is still running this long after its final status is killed


class Supervisor:
    """The supervisor of all runs.  `tick()` checks each of them once.

    `launcher` starts runs on this machine; `clusters` are the launchers of other places.
    """

    def __init__(
        self, settings: Settings, sessions: SessionFactory, launcher: LocalLauncher, catalog: Catalog,
        clusters: Sequence[Launcher] = (), leadership: Leadership | None = None,
    ) -> None:
        self.settings, self.sessions, self.launcher, self.catalog = settings, sessions, launcher, catalog
        self.launchers = {one.name: one for one in (launcher, *clusters)}
        self.clusters: tuple[Cluster, ...] = ()  # as they were seen last
        self._beats, self._cancels = Heartbeats(), Heartbeats()  # by a clock that never jumps
        self._leadership, self._led = leadership or OnlyServer(), False
        self._looked = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._synced = 0.0

    def start(self) -> None:
        """Start the supervisor's thread."""
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    def healthy(self) -> bool:
        """Return whether the thread is running or was never started."""
        return self._thread is None or self._thread.is_alive()

    def wake(self) -> None:
        """Check the runs now, because one was queued or cancelled."""
        self._wake.set()

    def leads(self) -> bool:
        """Return whether the runs are supervised here, and not by another server."""
        return self._leadership.leads()

    def stop(self) -> None:
        """Stop the thread and every run (checkpoint, then end); the runs resume at the next start.

        Runs that another server supervises go on.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self.leads():
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
        """Check every active run, then start queued runs up to the limit, unless another server does."""
        if not self._begin_leading():
            self._look_at_clusters()
            return
        with self.sessions() as db:
            for run in queue.active(db):
                self._watch(run)
        with self.sessions() as db:
            parts.give_up(db)
        while not self._stopping.is_set() and self.leads():
            with self.sessions() as db:
                claimed = queue.claim(db, self._room(db))
            if claimed is None:
                break
            self._launch(claimed)
        self._look_at_clusters()
        if time.monotonic() - self._synced >= SYNC_S:
            self._synced = time.monotonic()
            self.catalog.sync_if_changed()
            with self.sessions() as db:
                adopt_folders(db, self.settings.workspace, self.launcher)

    def _begin_leading(self) -> bool:
        """Return whether this server leads.  At the beginning of its lead it forgets what it knew of the runs."""
        leads = self.leads()
        if leads and not self._led:
            self._beats, self._cancels = Heartbeats(), Heartbeats()
            with self.sessions() as db:
                queue.recover(db)
        self._led = leads
        return leads

    def _look_at_clusters(self) -> None:
        if time.monotonic() - self._looked >= CLUSTERS_S:
            self._looked = time.monotonic()
            self.clusters = tuple(seen for one in self.launchers.values() if (seen := one.cluster()))

    # -- one run -----------------------------------------------------------------------------

    def _folder(self, run: Run) -> RunFolder:
        return RunFolder(self.settings.workspace.run(run.id))

    def _room(self, db: Session) -> Callable[[Run], bool]:
        """Return the test whether a queued run can start now: its launcher is there, and has room."""
        active = Counter(run.launcher for run in queue.active(db))

        def fits(run: Run) -> bool:
            limit = self.settings.max_runs if run.launcher == self.launcher.name else self.settings.cluster_runs
            launcher = self.launchers.get(run.launcher)
            return launcher is not None and active[run.launcher] < limit and launcher.room(place_of(run).resources)

        return fits

    def _launch(self, run: Run) -> None:
        folder = self._folder(run)
        try:
            folder.create(run.kind, run.spec)  # type: ignore[arg-type]  # checked when it was queued
            handle = self.launchers[run.launcher].start(folder, run.attempt, place_of(run).resources)
        except ClusterAway as away:
            log.warning("%s: %s", run.id, away)
            self._step(run, waiting_for=str(away)[:200])  # the job may have arrived; `_watch` finds out
            return
        except OSError as error:
            self._end(run, "failed", f"the run could not be started: {error}")
            return
        log.info("%s: started by the launcher %s as %s", run.id, handle.launcher, handle.ref)
        self._step(run, started=run.started or time.time(), ref=handle.ref, ref_mark=handle.mark)

    def _watch(self, run: Run) -> None:
        launcher = self.launchers.get(run.launcher)
        if launcher is None:
            return  # of a cluster that the settings no longer name
        status = self._status(run)
        try:
            handle = self._handle(run, launcher)
        except ClusterAway:
            return
        life = self._life(run, launcher, handle, status)
        unborn = life == "never_started" or (handle is None and status is None and not launcher.stops_with_server)
        if unborn and run.cancel_asked is None:  # which says nothing about the run
            self._step(run, state="queued", ref=None, ref_mark=None)
            return
        if handle is None or unborn or life == "ended":
            # The process may have written its final status after the first read.
            self._gone(run, self._status(run))
            return
        if run.cancel_asked is not None:
            self._enforce_cancel(run, launcher, handle, life)
        waiting_for = {"waiting": "a free place on the cluster", "unknown": "an answer of the cluster"}.get(life)
        if waiting_for != run.waiting_for:
            self._step(run, waiting_for=waiting_for)
        if status is None:
            return
        if status.state in queue.FINISHED and self._beats.silence(run.id, status.heartbeat) > LINGER_S:
            launcher.kill(handle)
        if run.state == "starting" or status.overall > run.progress:
            self._step(run, state="running", progress=max(run.progress, status.overall))

    def _life(self, run: Run, launcher: Launcher, handle: Handle | None, status: Status | None) -> Life:
        """Return the state of a run's job.  Where the launcher cannot know, the run's folder decides."""
        life = launcher.life(handle) if handle else "ended"
        silent_s = self._beats.silence(run.id, status.heartbeat if status else 0.0)
        final = status is not None and status.state in queue.FINISHED
        if life == "unknown" and launcher is self.launcher:  # its machine alone could know; a lock guards the folder
            return "ended" if final or silent_s > SILENT_HERE_S else "running"
        if life == "unknown" and silent_s > SILENT_S:
            return "ended" if final or run.cancel_asked is not None or run.requested_by == COMMAND_LINE else life
        if life == "ended" and status is not None and not final and silent_s < launcher.settle_s:
            return "running"  # the job's record may be gone before its process is
        return life

    def _handle(self, run: Run, launcher: Launcher) -> Handle | None:
        if run.ref is not None:
            return Handle(run.launcher, run.ref, run.ref_mark or "")
        # A server that was killed between starting the process and storing its handle leaves none here.
        handle = launcher.find(self._folder(run), run.attempt)
        if handle is not None:
            self._step(run, ref=handle.ref, ref_mark=handle.mark)
        return handle

    def _status(self, run: Run) -> Status | None:
        """Return the status if the present process wrote it, and None if an earlier one did."""
        status = self._folder(run).status()
        if status is None or status.attempt is not None:  # clocks of other hosts differ, so the number is better
            return status if status is not None and status.attempt == run.attempt else None
        return status if status.heartbeat >= (run.launched or 0.0) else None

    def _enforce_cancel(self, run: Run, launcher: Launcher, handle: Handle, life: Life) -> None:
        """Request the cancellation by the cancel file first, then by SIGTERM, then by SIGKILL to the group."""
        waited = self._cancels.silence(run.id, run.cancel_asked or 0.0)
        if life == "waiting":  # the cancel file stops the job should it start although it was taken back
            launcher.kill(handle)
            self._end(run, "cancelled", None)
        elif waited > 2 * self.settings.cancel_grace_s:
            launcher.kill(handle)
        elif waited > self.settings.cancel_grace_s:
            launcher.terminate(handle)
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
        if self._step(run, state="lost", error=reason, progress=run.progress, ref=None, ref_mark=None):
            with self.sessions() as db:
                queue.transition(
                    db, run.id, {"lost"}, state="queued", requeues=turn, requeue_mark=run.progress)

    def _end(self, run: Run, state: str, error: str | None, **values: object) -> None:
        values.setdefault("progress", run.progress)
        self._beats.forget(run.id)
        self._cancels.forget(run.id)
        values |= {"ref": None, "ref_mark": None, "waiting_for": None}
        self._step(run, state=state, error=error, finished=time.time(), **values)
        log.info("%s: %s%s", run.id, state, f": {error}" if error else "")

    def _step(self, run: Run, **values: object) -> bool:
        with self.sessions() as db:
            return queue.transition(db, run.id, queue.ACTIVE, **values)

    # -- the end of the server -----------------------------------------------------------------

    def _stop_runs(self) -> None:
        with self.sessions() as db:
            active = [
                (run, launcher, handle) for run in queue.active(db)
                if run.requested_by != COMMAND_LINE and (launcher := self.launchers.get(run.launcher))
                and launcher.stops_with_server and (handle := self._handle(run, launcher))
                and launcher.life(handle) != "unknown"]
        for _, launcher, handle in active:
            launcher.terminate(handle)
        deadline = time.monotonic() + self.settings.shutdown_grace_s
        while any(one.life(handle) != "ended" for _, one, handle in active) and time.monotonic() < deadline:
            time.sleep(0.05)
        for _, launcher, handle in active:
            launcher.kill(handle)
        for _, launcher, handle in active:
            with suppress(TimeoutError):
                self._wait_until_gone(launcher, handle)
        for run, _, _ in active:
            self._stopped(run)

    def _wait_until_gone(self, launcher: Launcher, handle: Handle) -> None:
        deadline = time.monotonic() + 5
        while launcher.life(handle) != "ended":
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
        self._step(run, state="queued", progress=progress, ref=None, ref_mark=None)
