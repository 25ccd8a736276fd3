"""The launchers of run processes, and handles that find a process again after a restart of the server.

A launcher starts the command `python -m sae run <folder>` somewhere.  Its `Handle` identifies the process, so that
it is never confused with a later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sae.runs.folder import RunFolder


@dataclass(frozen=True)
class Handle:
    """A process id and a mark of the process's start, because process ids are reused."""

    pid: int
    started: str


class Launcher(Protocol):
    """The interface between the supervisor and the place where runs are executed."""

    def start(self, folder: RunFolder) -> Handle:
        """Start the run in this folder.  Raises OSError."""

    def alive(self, handle: Handle) -> bool:
        """Return whether this process is still running."""

    def find(self, pid: int) -> Handle | None:
        """Return the handle of the process with this id, or None if there is none."""

    def terminate(self, handle: Handle) -> None:
        """Ask the run's processes to write a checkpoint and end."""

    def kill(self, handle: Handle) -> None:
        """End the run's processes at once."""
