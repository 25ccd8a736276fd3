"""The launcher that submits runs to Slurm with sbatch, watches them with squeue and ends them with scancel.

The nodes share the workspace at the same path.  Slurm sends SIGTERM two minutes before a job's time is over, so that
the run writes a checkpoint.  Slurm may requeue a job after a node failed or the job was preempted: the run resumes
exactly.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from contextlib import suppress
from typing import NamedTuple

from app.jobs.launchers import Cluster, ClusterAway, Handle, Life, Node, Resources
from app.jobs.launchers.commands import ATTEMPT, node_command
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace

_TIMEOUT_S = 20.0
_FRESH_S = 2.0  # one call of squeue serves all runs for so long
_TERM_BEFORE_END_S = 120
_PORT = 29_400  # of the rendezvous, plus the job's number modulo 1,000
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "CONFIGURING", "RESV_DEL_HOLD",
                      "SPECIAL_EXIT", "STOPPED"})
_ENDED = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
                    "PREEMPTED", "REVOKED", "TIMEOUT"})


class Job(NamedTuple):
    """A line of squeue."""

    id: str
    state: str
    name: str
    reason: str


class SlurmLauncher:
    """A launcher of Slurm jobs.  `options` are further options of sbatch, such as `--partition=gpu --time=12:00:00`."""

    name, stops_with_server, settle_s = "slurm", False, 10.0

    def __init__(self, workspace: Workspace, *, options: str = "", cpus: int = 4, python: str = "") -> None:
        self.workspace, self.options, self.cpus, self.python = workspace, shlex.split(options), cpus, python
        self._seen, self._jobs = 0.0, dict[str, Job]()

    def start(self, folder: RunFolder, attempt: int, resources: Resources) -> Handle:
        folder.path.mkdir(parents=True, exist_ok=True)
        options = [
            "--parsable", f"--job-name={_job_name(folder, attempt)}", f"--output={folder.log}", "--open-mode=append",
            f"--signal=B:TERM@{_TERM_BEFORE_END_S}", "--requeue", "--export=NONE", f"--nodes={resources.nodes}",
            "--ntasks-per-node=1", f"--cpus-per-task={resources.cpus or self.cpus}",
            *([f"--gres=gpu:{resources.gpus}"] if resources.gpus else []), *self.options]
        answer = self._call("sbatch", *options, script=self._script(folder, attempt, resources))
        number = answer.strip().partition(";")[0]  # "number;cluster" where Slurm has several clusters
        if not number.isdecimal():
            raise OSError(f"sbatch did not return the number of a job: {answer.strip()[:200]}")
        self._seen = 0.0
        return Handle(self.name, number)

    def _script(self, folder: RunFolder, attempt: int, resources: Resources) -> str:
        """Return the batch script.  It becomes the run's process, so that Slurm's SIGTERM reaches that process."""
        several = resources.nodes > 1
        rendezvous = ("--nnodes=$SLURM_NNODES", "--rdzv-backend=c10d", "--rdzv-id=$SLURM_JOB_ID",
                      "--rdzv-endpoint=$HEAD:$PORT", "--max-restarts=0") if several else ()
        command = " ".join(word if word in rendezvous else shlex.quote(word)
                           for word in node_command(folder, resources, self.python, rendezvous))
        lines = [
            "#!/bin/bash", f"export SAESCOPE_HOME={shlex.quote(str(self.workspace.root))}",
            f"export {ATTEMPT}={attempt}", "export PYTHONUNBUFFERED=1",
            f"export OMP_NUM_THREADS={resources.cpus or self.cpus}"]
        if several:
            lines += ['HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                      f"PORT=$(({_PORT} + SLURM_JOB_ID % 1000))",
                      f"exec srun --export=ALL --kill-on-bad-exit=1 {command}"]  # srun passes signals on
        else:
            lines.append(f"exec {command}")
        return "\n".join(lines) + "\n"

    def life(self, handle: Handle) -> Life:
        try:
            job = self._queue().get(handle.ref)
        except ClusterAway:
            return "unknown"
        if job is None or job.state in _ENDED:
            return "ended"
        return "waiting" if job.state in _WAITING else "running"

    def find(self, folder: RunFolder, attempt: int) -> Handle | None:
        self._seen = 0.0
        name = _job_name(folder, attempt)
        found = [job.id for job in self._queue().values() if job.name == name and job.state not in _ENDED]
        return Handle(self.name, found[-1]) if found else None

    def terminate(self, handle: Handle) -> None:
        self._quietly("scancel", "--signal=TERM", "--full", handle.ref)

    def kill(self, handle: Handle) -> None:
        self._quietly("scancel", handle.ref)

    def room(self, resources: Resources) -> bool:
        return True  # jobs may wait in Slurm's queue for as long as they like

    def cluster(self) -> Cluster:
        try:
            listed = self._call("sinfo", "-h", "-N", "-o", "%N|%T|%C|%G")
            waiting = [(f"{job.id} {job.name}", job.reason) for job in self._queue().values() if job.state in _WAITING]
        except (ClusterAway, OSError) as error:
            return Cluster(self.name, "sinfo", fault=str(error))
        nodes = {node.name: node for node in map(_node, filter(None, listed.splitlines()))}
        return Cluster(self.name, "sinfo", nodes=tuple(nodes.values()), waiting=tuple(waiting))

    def _queue(self) -> dict[str, Job]:
        """Return the user's jobs by number.  Raises ClusterAway if Slurm does not answer."""
        if time.monotonic() - self._seen > _FRESH_S:
            listed = self._call("squeue", "-h", "--me", "-o", "%i|%T|%j|%r")
            jobs = [Job(*(line.split("|") + [""] * 4)[:4]) for line in listed.splitlines() if "|" in line]
            self._jobs, self._seen = {job.id: job for job in jobs}, time.monotonic()
        return self._jobs

    def _quietly(self, *command: str) -> None:
        with suppress(ClusterAway):
            self._call(*command)
        self._seen = 0.0

    def _call(self, *command: str, script: str | None = None) -> str:
        """Return a command's output.  Raises ClusterAway if it fails, with the first line of its error."""
        try:
            done = subprocess.run(command, input=script or "", capture_output=True, text=True, timeout=_TIMEOUT_S,
                                  check=False)
        except subprocess.TimeoutExpired:
            raise ClusterAway(f"{command[0]} did not answer within {_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise ClusterAway(f"{command[0]} cannot be executed: {error.strerror}") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0][:200]
            kind = OSError if command[0] == "sbatch" and not _AWAY.search(reason) else ClusterAway
            raise kind(f"{command[0]}: {reason}")
        return done.stdout


_AWAY = re.compile("contact slurm controller|timed out|Connection refused|Resource temporarily", re.IGNORECASE)


def _job_name(folder: RunFolder, attempt: int) -> str:
    return f"saescope-{folder.id}-{attempt}"


def _node(line: str) -> Node:
    """Return a node from a line of sinfo: name, state, CPUs as allocated/idle/other/total, generic resources."""
    name, state, cpus, gres = (line.split("|") + [""] * 4)[:4]
    counts = [int(part) for part in cpus.split("/") if part.isdecimal()]
    gpus = re.search(r"gpu:(?:[^:,()]+:)?(\d+)", gres)
    return Node(name, state.rstrip("*").lower(), (float(counts[0]), float(counts[3])) if len(counts) == 4 else None,
                (None, float(gpus[1])) if gpus else None)
