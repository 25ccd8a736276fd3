"""The order in which this machine's processes get its processors: pages, then the model worker, then runs.

Pages take a few milliseconds each and are waited for, so they come first.  A text that is steered is read as it grows,
and a training takes minutes or days.  Alone on the machine, each gets all of it.
"""

from __future__ import annotations

import os
from contextlib import suppress

MODEL_WORKER, RUN = 10, 19  # added to the niceness of the process that starts them


def yield_processor(pid: int, by: int) -> None:
    """Lower the priority of a process that has just been started, and so the priority of its later threads."""
    with suppress(AttributeError, OSError):  # Windows has no such call, and a process may have ended
        os.setpriority(os.PRIO_PROCESS, pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + by))
