"""The stand-in for a launcher of runs that a command line on another host executes: only their folders tell of them."""

from __future__ import annotations

from app.jobs.launchers import Cluster, Handle, Life, Resources
from sae.runs.folder import RunFolder

ELSEWHERE = "elsewhere"


class Elsewhere:
    """A launcher that starts nothing, and whose runs stop by the cancel file alone."""

    name, stops_with_server, settle_s = ELSEWHERE, False, 0.0

    def start(self, folder: RunFolder, attempt: int, resources: Resources) -> Handle:
        raise OSError("a run from the command line of another host cannot be started here")

    def life(self, handle: Handle) -> Life:
        return "unknown"

    def find(self, folder: RunFolder, attempt: int) -> Handle | None:
        return None

    def terminate(self, handle: Handle) -> None:
        pass

    def kill(self, handle: Handle) -> None:
        pass

    def room(self, resources: Resources) -> bool:
        return False

    def cluster(self) -> Cluster | None:
        return None
