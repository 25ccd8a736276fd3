"""A run program for tests, which follows the contract of a run folder in steps that a test can observe.

Its spec has `steps`, `step_s`, and `behave`, which is one of

    well       counts to `steps`, a checkpoint at each, and succeeds
    stubborn   ignores the cancel file and SIGTERM
    fail       ends with state failed
    vanish     exits at once without a status
"""

import os
import signal
import sys
import time
from pathlib import Path

from sae.runs.folder import RunFolder, Status
from sae.workspace.files import write_json


def main(path: str) -> int:
    folder = RunFolder(Path(path))
    _, spec = folder.spec()
    if "run" in spec:  # a part, which works like its parent
        _, spec = RunFolder(folder.path.with_name(spec["run"])).spec()
    behave, steps = spec.get("behave", "well"), int(spec.get("steps", 3))
    print(f"fake run begins: {behave}", flush=True)
    if behave == "vanish":
        return 1
    stopped = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behave == "stubborn" else lambda *_: stopped.append(1))
    checkpoint = folder.checkpoints / "step"
    folder.checkpoints.mkdir(exist_ok=True)
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    status = Status(state="running", phase="count", phases=["count"], total=steps, started=time.time())

    status.pid = os.getpid()
    with open(folder.path / "starts", "a") as file:
        file.write(f"{done}\n")
    while done < steps:
        status.done, status.overall = done, done / steps
        folder.write_status(status)
        if behave == "fail":
            status.state, status.error = "failed", "k: too large"
            folder.write_status(status)
            return 1
        if behave != "stubborn":
            if folder.cancel_requested():
                status.state = "cancelled"
                folder.write_status(status)
                return 0
            if stopped:
                return 0
        time.sleep(spec.get("step_s", 0.01))
        done += 1
        write_json(checkpoint, done)  # atomic: the tests kill this process at any moment
    status.state, status.done, status.overall = "succeeded", steps, 1.0
    status.result = {"sae": "demo/fake"}
    folder.write_status(status)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
