"""The launchers of runs, and handles that find a run's process again after a restart of the server.

A launcher starts the command `python -m sae run <folder>` somewhere: on this machine, or on a cluster that shares the
workspace.  The supervisor asks it whether the process still exists.  What the run has done is in its folder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sae.runs.folder import RunFolder

# waiting: in a cluster's own queue.  never_started: the cluster gave the job up before its process began.
# unknown: the cluster does not answer, and the run's folder has to tell.
Life = Literal["waiting", "running", "ended", "never_started", "unknown"]


class ClusterAway(OSError):
    """A cluster that cannot be reached.  Nothing is known of its jobs until it answers again."""


@dataclass(frozen=True)
class Handle:
    """The name of a job at its launcher: a process id, a submission id or a job number.

    `mark` tells apart jobs that have the same name, because process ids are reused.
    """

    launcher: str
    ref: str
    mark: str = ""


@dataclass(frozen=True)
class Resources:
    """The resources that a run asks of a cluster on each of its nodes; 0 CPUs: the number in the settings."""

    cpus: int = 0
    gpus: int = 0
    nodes: int = 1


@dataclass(frozen=True)
class Node:
    """A node of a cluster, with (used, total) CPUs and GPUs; None where the cluster does not say."""

    name: str
    state: str
    cpus: tuple[float | None, float] | None = None
    gpus: tuple[float | None, float] | None = None


@dataclass(frozen=True)
class Cluster:
    """The state of a cluster.  `fault` says why it is unknown; `waiting` are jobs of anybody, with their reasons."""

    launcher: str
    address: str
    fault: str = ""
    nodes: tuple[Node, ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()


class Launcher(Protocol):
    """The interface between the supervisor and the place where runs are executed."""

    name: str
    stops_with_server: bool  # whether the server stops its runs when it stops itself
    settle_s: float  # seconds without a heartbeat after which an ended job's process is gone from its node, too

    def start(self, folder: RunFolder, attempt: int, resources: Resources) -> Handle:
        """Start the run in this folder.  Raises OSError, and ClusterAway if it can be tried again."""

    def life(self, handle: Handle) -> Life:
        """Return the state of this job."""

    def find(self, folder: RunFolder, attempt: int) -> Handle | None:
        """Return the job of an attempt whose server died before it stored the handle, or None if there is none.

        Raises ClusterAway.
        """

    def terminate(self, handle: Handle) -> None:
        """Ask the run's processes to write a checkpoint and end."""

    def kill(self, handle: Handle) -> None:
        """End the run's processes at once."""

    def room(self, resources: Resources) -> bool:
        """Return whether a run with these resources can start now."""

    def cluster(self) -> Cluster | None:
        """Return the state of the cluster, or None for this machine."""
