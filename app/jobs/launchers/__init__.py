"""How a run folder gets a process, and how one is found again after a restart.

A launcher starts the one command (`python -m sae run <folder>`) somewhere.  Whatever it is,
a `Handle` names the process well enough to find it again, and never another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sae.runs.folder import RunFolder


@dataclass(frozen=True)
class Handle:
    """A process and the mark of its start, because numbers of processes are used again."""

    pid: int
    started: str


class Launcher(Protocol):
    """What the supervisor needs of a place to run."""

    def start(self, folder: RunFolder) -> Handle:
        """Start the run in this folder.  Raises OSError where that cannot be done."""

    def alive(self, handle: Handle) -> bool:
        """Whether this very process is still there."""

    def find(self, pid: int) -> Handle | None:
        """The handle of a process known by its number only, or None if there is none."""

    def terminate(self, handle: Handle) -> None:
        """Ask the run's processes to write a checkpoint and end."""

    def kill(self, handle: Handle) -> None:
        """End the run's processes at once."""
