"""The commands that execute a run folder, for each form of launcher."""

from __future__ import annotations

import shlex
import sys

from app.jobs.launchers import Resources
from sae.runs.folder import RunFolder

ATTEMPT = "SAESCOPE_ATTEMPT"  # the environment variable that a run copies into its status


def run_command(folder: RunFolder, python: str = "") -> list[str]:
    """Return the command that executes or resumes a run folder."""
    return [python or sys.executable, "-m", "sae", "run", "--quiet", str(folder.path)]


def node_command(
    folder: RunFolder, resources: Resources, python: str = "", rendezvous: tuple[str, ...] = ()
) -> list[str]:
    """Return the command for one node: a process for each GPU by torchrun if there are several, else one process.

    `rendezvous` holds torchrun's options that join several nodes.
    """
    command = run_command(folder, python)
    if resources.gpus <= 1 and not rendezvous:
        return command
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={max(1, resources.gpus)}",
                *(rendezvous or ("--standalone",))]
    return [command[0], *torchrun, *command[1:]]


def shell_line(command: list[str], folder: RunFolder) -> str:
    """Return a shell command that replaces the shell and appends its output to the folder's log."""
    return f"exec {shlex.join(command)} >> {shlex.quote(str(folder.log))} 2>&1"
