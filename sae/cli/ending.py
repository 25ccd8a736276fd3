"""The end of a process of the command line."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable


def end_at_once(command: Callable[[], None]) -> None:
    """Run a command that ends by `SystemExit`, and then end the process without unloading its libraries.

    Unloading torch and what it brings takes more than half a second, in which a user waits for the prompt.  What was
    registered to happen at the end still happens.  An error, or a thread that is still at work, leaves the end to
    Python.
    """
    code: int | None = None
    try:
        command()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        code = ended.code
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a pipe whose reader has gone, a closed stream
            stream.flush()
    os._exit(code or 0)
