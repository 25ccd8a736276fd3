"""What the workers of other trainers share: they answer requests, one JSON object per line.

It needs the standard library alone, because each worker runs in an environment of its own.
"""

import json
import resource
import sys
from pathlib import Path


def peak_mb() -> float:
    """Return this program's peak resident memory in MB (`ru_maxrss` would include its parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(worker) -> None:
    """Answer each line of the input by `worker.make`, or by its method of the request's only name."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the libraries' own output must not mix with the answers
    for line in sys.stdin:
        request = json.loads(line)
        if "make" in request:
            answer = worker.make(request["make"], request["data"], request["device"])
        else:
            ((name, value),) = request.items()
            answer = getattr(worker, name)(value)
        print(json.dumps(answer), file=answers, flush=True)
