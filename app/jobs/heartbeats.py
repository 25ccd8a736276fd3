"""The age of heartbeats, measured by this machine's clock alone, because the clocks of other hosts differ."""

from __future__ import annotations

import time


class Heartbeats:
    """The last heartbeat of each run, with the moment at which it was seen to change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def silence(self, run_id: str, heartbeat: float) -> float:
        """Return the seconds since the run's heartbeat changed; 0 when it is seen for the first time."""
        now = time.monotonic()
        before = self._seen.get(run_id)
        if before is None or before[0] != heartbeat:
            self._seen[run_id] = before = (heartbeat, now)
        return now - before[1]

    def forget(self, run_id: str) -> None:
        """Forget a run that has ended."""
        self._seen.pop(run_id, None)
