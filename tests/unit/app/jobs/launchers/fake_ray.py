"""A stand-in for the dashboard of a Ray cluster over real HTTP, with the behaviour that was measured on Ray 2.60.

It executes the entry points as processes of this machine, as many at a time as it has CPUs for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STOP_S = 3.0  # between SIGTERM and SIGKILL, unless the job's environment says otherwise


class FakeRay:
    """The cluster behind the dashboard.  Tests may change its public attributes at any moment."""

    def __init__(self, cpus: float = 4) -> None:
        self.cpus = cpus
        self.token = ""
        self.away = False  # connections are closed without an answer
        self.lose_answers = 0  # of so many submissions that arrive
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []  # the bodies of all submissions
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()

    # ---- the six routes

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self._advance()
            if path == "/api/version":
                return 200, {"version": "4", "ray_version": "2.60.0"}
            if path == "/api/cluster_status":
                return 200, {"data": {"clusterStatus": {"loadMetricsReport": {"usageByNode": {
                    "n1": {"CPU": [self._used(), self.cpus]}}}}}}
            if path.startswith("/api/v0/nodes"):
                return 200, {"data": {"result": {"result": [
                    {"node_id": "n1", "node_name": "head-1", "is_head_node": True, "state": "ALIVE",
                     "resources_total": {"CPU": self.cpus}}]}}}
            if path == "/api/jobs/" and method == "POST":
                return self._submit(body)
            if path == "/api/jobs/":
                return 200, list(self.jobs.values())
            name, _, verb = path.removeprefix("/api/jobs/").partition("/")
            if name not in self.jobs:
                return 404, f"Job {name} does not exist"
            if method == "POST" and verb == "stop":
                return 200, {"stopped": self._stop(name)}
            return 200, self.jobs[name]

    def _submit(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(body)
        name = body["submission_id"]
        if name in self.jobs:
            return 500, ("Traceback (most recent call last):\n  ...\n"
                         f"ValueError: Job with submission_id {name} already exists. Please use a different one.")
        self.jobs[name] = {"submission_id": name, "status": "PENDING", "message": "Job has not started yet.",
                           "error_type": None, "driver_exit_code": None, "metadata": body["metadata"], "body": body}
        self._advance()
        return 200, {"submission_id": name}

    def _advance(self) -> None:
        """Collect the jobs that have ended, and start those for which there are CPUs."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[name]
                job = self.jobs.get(name)
                if job and job["status"] == "RUNNING":
                    ended = "STOPPED" if job.get("stop") else "FAILED" if process.returncode else "SUCCEEDED"
                    job.update(status=ended, driver_exit_code=process.returncode)
        for name, job in self.jobs.items():
            needed = float(job["body"].get("entrypoint_num_cpus", 0))
            if job["status"] == "PENDING" and self._used() + needed <= self.cpus:
                if job.get("stop"):
                    job["status"] = "STOPPED"  # only now
                    continue
                environment = {**os.environ, "OMP_NUM_THREADS": "1", **job["body"]["runtime_env"]["env_vars"]}
                self._processes[name] = subprocess.Popen(
                    job["body"]["entrypoint"], shell=True, env=environment, start_new_session=True)
                job["status"] = "RUNNING"

    def _used(self) -> float:
        return sum(float(self.jobs[name]["body"].get("entrypoint_num_cpus", 0)) for name in self._processes
                   if name in self.jobs)

    def _stop(self, name: str) -> bool:
        job = self.jobs[name]
        if job["status"] not in ("PENDING", "RUNNING"):
            return False
        job["stop"] = True
        if job["status"] == "RUNNING":
            process = self._processes[name]
            wait_s = float(job["body"]["runtime_env"]["env_vars"].get("RAY_JOB_STOP_WAIT_TIME_S", _STOP_S))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            threading.Timer(wait_s, self._kill, [process]).start()
        return True

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    # ---- what happens to clusters

    def kill_job(self, name: str) -> None:
        """End a job's processes, as the death of its node does."""
        with self._lock:
            self._kill(self._processes[name])
            self._processes[name].wait()
            self.jobs[name].update(error_type="JOB_SUPERVISOR_ACTOR_DIED")

    def start_timeout(self, name: str) -> None:
        """Let a pending job fail, as Ray does after 900 s."""
        self.jobs[name].update(status="FAILED", error_type="JOB_SUPERVISOR_ACTOR_START_TIMEOUT", message=(
            "Job supervisor actor failed to start within 900.0 seconds. This timeout can be configured by setting the "
            "environment variable RAY_JOB_START_TIMEOUT_SECONDS."))

    def forget(self) -> None:
        """Lose all records, as a head that is started again does; the processes go on."""
        self.jobs.clear()

    def close(self) -> None:
        for process in self._processes.values():
            self._kill(process)
            process.wait()


@contextmanager
def fake_ray(cpus: float = 4) -> Iterator[tuple[str, FakeRay]]:
    """Serve a fake cluster, and give its address."""
    cluster = FakeRay(cpus)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            if cluster.away:
                return
            if cluster.token and self.headers.get("Authorization") != f"Bearer {cluster.token}":
                self.send_response(401)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            status, answer = cluster.answer(self.command, self.path, body)
            if self.command == "POST" and self.path == "/api/jobs/" and cluster.lose_answers:
                cluster.lose_answers -= 1
                return
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        cluster.close()


def until(seen: Any, seconds: float = 30) -> None:
    """Wait until `seen()`."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it was never seen"
        time.sleep(0.01)
