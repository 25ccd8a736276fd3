"""Retention of what is kept up to an age: stored steering runs and inspections, the audit log, staged uploads.

Visitors can store runs without signing in, so without a limit they would fill the disk.  Nothing is deleted for its
age while the clock may be wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import delete, select

from app.db.engine import SessionFactory
from app.db.people_tables import AuditEntry
from app.db.tables import Inspection, SteerRun
from app.library.uploads import Uploads
from app.settings import Settings

EVERY_S = 600.0
JUMP_S = 60.0
AWAY_S = 7 * 86_400.0  # a server that was off for longer, or whose clock is wrong
DISTRUST_S = 86_400.0
AUDIT_DAYS = 730
MARK = ".clock"  # a file of the workspace, which is written at each sweep

log = logging.getLogger(__name__)


def sweep(sessions: SessionFactory, keep_days: float, keep: int, now: float | None = None) -> int:
    """Delete rows older than `keep_days` days and all but the newest `keep` of each kind; return how many.

    Runs that are not finished are left alone.
    """
    oldest = (time.time() if now is None else now) - 86_400 * keep_days
    removed = 0
    with sessions() as db:
        for kind in (SteerRun, Inspection):
            newest = select(kind.created).order_by(kind.created.desc()).offset(keep).limit(1).scalar_subquery()
            gone = delete(kind).where((kind.created < oldest) | (kind.created <= newest))
            if kind is SteerRun:
                gone = gone.where(SteerRun.state.not_in(("queued", "running")))
            removed += db.execute(gone).rowcount  # type: ignore[attr-defined]
        db.commit()
    return removed


def sweep_audit(sessions: SessionFactory, now: float | None = None) -> None:
    """Delete the entries of the audit log that are too old."""
    with sessions() as db:
        oldest = (time.time() if now is None else now) - AUDIT_DAYS * 86_400
        db.execute(delete(AuditEntry).where(AuditEntry.at < oldest))
        db.commit()


class Clock:
    """The system's clock, compared with one that never jumps, and with the time of the last sweep before the start.

    After a jump, the age of everything may be wrong.
    """

    def __init__(self, home: Path) -> None:
        self._mark = home / MARK
        self._offset, self._trusted_from = time.time() - time.monotonic(), 0.0
        seen = self._seen()
        if seen is not None and not -JUMP_S <= time.time() - seen <= AWAY_S:
            log.warning("the clock is %+.1f days from the last time that the server ran; nothing is deleted because of "
                        "its age for a day", (time.time() - seen) / 86_400)
            self._trusted_from = time.monotonic() + DISTRUST_S

    def steady(self) -> bool:
        """Return whether the clock was not set by more than a minute in the last day."""
        now = time.monotonic()
        offset = time.time() - now
        if abs(offset - self._offset) > JUMP_S:
            log.warning("the clock was set by %+.0f s; nothing is deleted because of its age for a day",
                        offset - self._offset)
            self._trusted_from = now + DISTRUST_S
        self._offset = offset
        if now < self._trusted_from:
            return False
        with suppress(OSError):  # a full disk; the mark of an earlier sweep stays
            self._mark.write_text(f"{time.time():.0f}\n", encoding="ascii")
        return True

    def _seen(self) -> float | None:
        """Return the time of the last sweep of an earlier server, or None if there was none."""
        try:
            return float(self._mark.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


async def keep_sweeping(sessions: SessionFactory, settings: Settings) -> None:
    """Sweep at once and every ten minutes until cancelled, but not while the clock may be wrong."""
    clock, uploads = Clock(settings.home), Uploads(settings.home, settings.max_upload_bytes)
    while True:
        if await asyncio.to_thread(clock.steady):
            removed = await asyncio.to_thread(sweep, sessions, settings.keep_days, settings.keep_stored)
            if removed:
                log.info("deleted %d stored steering runs and inspections, which were too old or too many", removed)
            await asyncio.to_thread(sweep_audit, sessions)
            await asyncio.to_thread(uploads.sweep_abandoned)
        await asyncio.sleep(EVERY_S)
