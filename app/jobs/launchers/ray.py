"""The launcher that runs jobs on a Ray cluster, by Ray Jobs over HTTP (Ray 2.8 or later).

The server needs no `ray` package.  The nodes share the workspace at the same path and have saescope installed.

Ray's own record of a job is lost with its head, and some of its answers need interpretation:

- A submission id that was used is answered with 500.  After a lost answer that is our own job.
- A job that is stopped while it is pending stays pending until its resources are free.  The run's `cancel` file then
  ends it at once.
- A job that is pending for 15 minutes fails.  That says nothing about the run, which is queued again.
- A stopped job is killed 3 s after SIGTERM, unless its environment says otherwise.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import httpx

from app.jobs.launchers import Cluster, ClusterAway, Handle, Life, Node, Resources
from app.jobs.launchers.commands import ATTEMPT, node_command, run_command, shell_line
from sae.runs.folder import RunFolder
from sae.workspace.paths import Workspace

_TIMEOUT_S = 5.0
_PAUSE_S = 10.0  # a dashboard that did not answer is not asked again before
_NEVER_STARTED = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"


class RayLauncher:
    """A launcher of Ray jobs.  `cpus` is the number of CPUs of a run that does not ask for another.

    `python` is the interpreter on the nodes, and `stop_s` the time between SIGTERM and SIGKILL when a job is stopped.
    """

    name, stops_with_server, settle_s = "ray", False, 10.0

    def __init__(
        self, workspace: Workspace, address: str, *, token: str = "", cpus: int = 4, python: str = "",
        stop_s: float = 30.0,
    ) -> None:
        self.workspace, self.address, self.cpus, self.python, self.stop_s = workspace, address, cpus, python, stop_s
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=address, headers=headers, timeout=_TIMEOUT_S, trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0))  # a head that is started again closes kept ones
        self._away_until, self._fault = 0.0, ""

    def start(self, folder: RunFolder, attempt: int, resources: Resources) -> Handle:
        folder.path.mkdir(parents=True, exist_ok=True)
        ref, cpus = _submission_id(folder, attempt), resources.cpus or self.cpus
        environment = {
            "SAESCOPE_HOME": str(self.workspace.root), ATTEMPT: str(attempt), "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(cpus), "RAY_JOB_STOP_WAIT_TIME_S": f"{self.stop_s:.0f}"}
        if resources.nodes > 1:  # the job itself places one torchrun on each node
            command = [*run_command(folder, self.python)[:1], "-m", "sae.runs.ray_gang", str(folder.path),
                       f"--nodes={resources.nodes}", f"--gpus={resources.gpus}", f"--cpus={cpus}"]
            asked: dict[str, Any] = {}  # it waits on the head, and must not take a CPU from the nodes
        else:
            command = node_command(folder, resources, self.python)
            asked = {"entrypoint_num_cpus": cpus}
            if resources.gpus:
                asked["entrypoint_num_gpus"] = resources.gpus
        status, answer = self._ask("POST", "/api/jobs/", {
            "entrypoint": shell_line(command, folder), "submission_id": ref, "runtime_env": {"env_vars": environment},
            "metadata": {"saescope_run": folder.id}, **asked})
        if status >= 400 and not (status == 500 and "already exists" in str(answer)):
            raise OSError(f"the Ray cluster at {self.address} refused the job: {_first_line(answer)}")
        return Handle(self.name, ref)

    def life(self, handle: Handle) -> Life:
        try:
            status, answer = self._ask("GET", f"/api/jobs/{handle.ref}")
        except ClusterAway:
            return "unknown"
        if status == 404:
            return "ended"
        if status >= 400 or not isinstance(answer, dict):
            return "unknown"
        if answer.get("status") in ("PENDING", "RUNNING"):
            return "waiting" if answer["status"] == "PENDING" else "running"
        never = answer.get("status") == "FAILED" and (
            _NEVER_STARTED in f"{answer.get('error_type')} {answer.get('message')}"
            or "JOB_START_TIMEOUT" in str(answer.get("message")))
        return "never_started" if never else "ended"

    def find(self, folder: RunFolder, attempt: int) -> Handle | None:
        status, _ = self._ask("GET", f"/api/jobs/{_submission_id(folder, attempt)}")
        if status not in (200, 404):
            raise ClusterAway(f"the Ray cluster at {self.address} answered {status}")
        return Handle(self.name, _submission_id(folder, attempt)) if status == 200 else None

    def terminate(self, handle: Handle) -> None:
        with suppress(ClusterAway):
            self._ask("POST", f"/api/jobs/{handle.ref}/stop")

    def kill(self, handle: Handle) -> None:
        self.terminate(handle)  # Ray itself follows with SIGKILL

    def room(self, resources: Resources) -> bool:
        """Return whether the nodes have the resources now, so that the job never waits in Ray's queue for long."""
        try:
            state = self.cluster()
        except ClusterAway:
            return False
        if state.fault or state.waiting:
            return False
        cpus, gpus = resources.cpus or self.cpus, resources.gpus
        fitting = [node for node in state.nodes if _free(node.cpus) >= cpus and _free(node.gpus) >= gpus]
        return len(fitting) >= resources.nodes

    def cluster(self) -> Cluster:
        try:
            _, nodes = self._ask("GET", "/api/v0/nodes?limit=1000")
            _, jobs = self._ask("GET", "/api/jobs/")
            _, usage = self._ask("GET", "/api/cluster_status")
        except ClusterAway as away:
            return Cluster(self.name, self.address, fault=str(away))
        used = _at(usage, "data", "clusterStatus", "loadMetricsReport", "usageByNode") or {}
        listed = [_node(one, used) for one in _at(nodes, "data", "result", "result") or () if one["state"] == "ALIVE"]
        pending = [(str(job.get("submission_id") or job.get("job_id")), _first_line(job.get("message")))
                   for job in (jobs if isinstance(jobs, list) else []) if job.get("status") == "PENDING"]
        return Cluster(self.name, self.address, nodes=tuple(listed), waiting=tuple(pending))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return (status, JSON or text) of an answer.  Raises ClusterAway if there is none."""
        if time.monotonic() < self._away_until:
            raise ClusterAway(self._fault)
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self._away_until = time.monotonic() + _PAUSE_S
            self._fault = f"the Ray cluster at {self.address} does not answer ({error or type(error).__name__})"
            raise ClusterAway(self._fault) from None
        if answer.status_code in (401, 403):
            raise ClusterAway(f"the Ray cluster at {self.address} does not accept the token (SAESCOPE_RAY_TOKEN)")
        try:
            return answer.status_code, answer.json()
        except json.JSONDecodeError:
            return answer.status_code, answer.text


def _submission_id(folder: RunFolder, attempt: int) -> str:
    """Return the id of an attempt.  An id can be used only once."""
    return f"saescope-{folder.id}-{attempt}"


def _node(one: dict[str, Any], used: dict[str, Any]) -> Node:
    """Return a node from its entry in the list, and from its use, which lags behind by some seconds."""
    usage, total = used.get(one["node_id"], {}), one.get("resources_total", {})

    def pair(name: str) -> tuple[float, float] | None:
        found = usage.get(name) or ((0.0, total[name]) if name in total else None)
        return (float(found[0]), float(found[1])) if found else None

    name = str(one.get("node_name") or one.get("node_ip")) + (" (head)" if one.get("is_head_node") else "")
    return Node(name, str(one["state"]).lower(), pair("CPU"), pair("GPU"))


def _free(pair: tuple[float | None, float] | None) -> float:
    return pair[1] - (pair[0] or 0.0) if pair else 0.0


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _first_line(answer: Any) -> str:
    """Return the last line of a traceback, or the first of another text."""
    lines = [line.strip() for line in str(answer or "").strip().splitlines() if line.strip()] or ["no reason given"]
    return (lines[-1] if lines[0].startswith("Traceback") else lines[0])[:200]
