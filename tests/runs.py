"""Executions of run folders in separate processes, which tests may kill at any moment.

The processes are forked from one that has already imported the engine, so that each begins at
once.  They save far more often than real runs do, so that a run can be resumed after
seconds; their results are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOAD = ["sae.lm.bridge", "sae.training.loop", "sae.evaluation.metrics", "sae.index.build", "sae.cli.main",
           "sae.runs.execute", "sae.runs.train", "sae.runs.evaluate", "sae.runs.explain", "sae.runs.import_sae",
           # What torch's optimizers, DuckDB and the demo model import when they begin:
           "torch._dynamo", "numpy.ma", "pyarrow.compute", "transformers.models.llama.modeling_llama",
           "app.worker.queue", "app.worker.engine", "app.page_workers.process",  # for tests.forked_modules
           "tests.runs"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOAD)


def begin(folder: Path, home: Path | None = None) -> ForkServerProcess:
    """Start `saescope run <folder>`; its output goes to the folder's log."""
    process = CONTEXT.Process(target=_run, args=(str(folder), str(home or "")))
    process.start()
    return process


def wait_for(process: ForkServerProcess, seen: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until `seen()`, while the process is still running."""
    until = time.monotonic() + seconds
    while not seen():
        if not process.is_alive() or time.monotonic() > until:
            raise AssertionError(f"the process ended with {process.exitcode} before the expected state")
        time.sleep(0.002)


def end_of(process: ForkServerProcess, seconds: float = 120) -> int:
    """Wait for the end and return the exit code, which is minus the signal's number for a killed process."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process did not end")
    return process.exitcode


def _run(folder: str, home: str) -> None:
    if home:
        os.environ["SAESCOPE_HOME"] = home
    log = os.open(os.path.join(folder, "log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["saescope", "run", folder]
    save_often()


def save_often() -> None:
    """Be `saescope` with the arguments of this process, and save runs far more often."""
    from sae.cli.main import main
    from sae.index import scan
    from sae.training import loop

    loop._CHECKPOINT_S = 0.1
    scan.SHARD_TOKENS, scan.SAVE_S = 8192, 0.0  # one pass of the language model
    main()
