"""Retention of stored steering runs and inspections: up to an age, and up to a number of each.

Visitors can make them without signing in, so without a limit they would fill the disk.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import delete, select

from app.db.engine import SessionFactory
from app.db.tables import Inspection, SteerRun
from app.settings import Settings

EVERY_S = 600.0
JUMP_S = 60.0
DISTRUST_S = 86_400.0

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


class Clock:
    """The system's clock, compared with one that never jumps: after a jump, the age of everything may be wrong."""

    def __init__(self) -> None:
        self._offset, self._trusted_from = time.time() - time.monotonic(), 0.0

    def steady(self) -> bool:
        """Return whether the clock was not set by more than a minute in the last day."""
        now = time.monotonic()
        offset = time.time() - now
        if abs(offset - self._offset) > JUMP_S:
            log.warning("the clock was set by %+.0f s; nothing is deleted because of its age for a day",
                        offset - self._offset)
            self._trusted_from = now + DISTRUST_S
        self._offset = offset
        return now >= self._trusted_from


async def keep_sweeping(sessions: SessionFactory, settings: Settings) -> None:
    """Sweep at once and every ten minutes until cancelled, but not for a day after the clock was set."""
    clock = Clock()
    while True:
        if not clock.steady():
            await asyncio.sleep(EVERY_S)
            continue
        removed = await asyncio.to_thread(sweep, sessions, settings.keep_days, settings.keep_stored)
        if removed:
            log.info("deleted %d stored steering runs and inspections, which were too old or too many", removed)
        await asyncio.sleep(EVERY_S)
