"""The order in which this machine's processes get its processors: pages, then the model worker, then runs.

Pages take a few milliseconds each and are waited for, so they come first.  A text that is steered is read as it grows,
and a training takes minutes or days.  Alone on the machine, each gets all of it.

Linux may give each session an equal part of the processors, whatever the niceness of its processes is ("autogroup" in
the manual page sched(7)).  A session has a niceness of its own then.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

MODEL_WORKER, RUN = 10, 19  # added to the niceness of the process that starts them
_TRIES, _WAIT_S = 3, 0.1  # for a session's niceness: Linux lets all users together change one in a tenth of a second


def yield_processor(pid: int, by: int) -> None:
    """Lower the priority of a process that has just been started, and so the priority of its later threads.

    If it leads a session of its own, the session's priority is lowered, too.
    """
    with suppress(AttributeError, OSError):  # Windows has no such calls, and a process may have ended
        niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + by)
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
        if os.getsid(pid) == pid:
            _lower_session(Path(f"/proc/{pid}/autogroup"), niceness)


def _lower_session(autogroup: Path, niceness: int) -> None:
    """Write the niceness of a session.  Raises OSError if the system has none, or was asked too often."""
    for attempt in range(_TRIES):
        try:
            with open(autogroup, "r+") as file:
                file.write(str(niceness))
            return
        except BlockingIOError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(_WAIT_S)
