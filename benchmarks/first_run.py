"""Time from an empty workspace to a browsable SAE, as a client sees it.

    python -m benchmarks.first_run

The benchmark starts `saescope serve` in a temporary workspace on a free port of the loopback interface.  It requests
the home page until it comes, then the list of SAEs until the demo SAE has its build, and
stops the server.  Times count from the start of the server's process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks._report import bar, emit

LIMIT_S = 900.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        results = watch(Path(home), quiet=options.json)
    bars = [
        bar("first page after the server's start (s)", results["first_page_s"], "≤ 15", results["first_page_s"] <= 15),
        bar("latents to browse after the server's start (s)", results["browsable_s"], "≤ 80",
            results["browsable_s"] <= 80),
        bar("stopped after Ctrl-C (s)", results["stop_s"], "≤ 60", results["stop_s"] <= 60)]
    if not options.json:
        print(json.dumps(results, indent=1))
    emit("first_run", results, bars, options.json)


def watch(home: Path, quiet: bool) -> dict[str, Any]:
    """Start the server, wait for the demo's build, stop the server, and return the times."""
    port = _free_port()
    environment = {**os.environ, "SAESCOPE_HOME": str(home), "PORT": str(port), "HOST": "127.0.0.1"}
    started = time.monotonic()
    with open(home / "serve.log", "wb") as log:
        server = subprocess.Popen([str(Path(sys.executable).parent / "saescope"), "serve"], env=environment,
                                  stdout=log, stderr=subprocess.STDOUT)
    try:
        first_page = _until(started, server, lambda: _get(port, "/") is not None)
        phases: dict[str, float] = {}

        def browsable() -> bool:
            for run in json.loads(_get(port, "/api/runs") or "[]"):
                phase = run.get("phase") or run["state"]
                if phase not in phases:
                    phases[phase] = round(time.monotonic() - started, 1)
                    if not quiet:
                        print(f"{phases[phase]:6.1f} s  {phase}", flush=True)
            return any(sae["build"] for sae in json.loads(_get(port, "/api/saes") or "[]"))

        done = _until(started, server, browsable)
        sae = json.loads(next(home.glob("saes/*/*/sae.json")).read_text())
    finally:
        stopping = time.monotonic()
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)
    return {"first_page_s": first_page, "browsable_s": done, "stop_s": time.monotonic() - stopping, "phases": phases,
            "metrics": sae["metrics"], "threshold": sae["threshold"], "tokens_per_s": sae["training"]["tokens_per_s"]}


def _until(started: float, server: subprocess.Popen[bytes], holds: Any) -> float:
    while time.monotonic() - started < LIMIT_S:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with code {server.returncode}")
        if holds():
            return round(time.monotonic() - started, 2)
        time.sleep(0.5)
    raise SystemExit(f"nothing after {LIMIT_S:.0f} s")


def _get(port: int, path: str) -> str | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
