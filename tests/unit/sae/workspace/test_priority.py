"""Tests of the order in which processes get the processor."""

from __future__ import annotations

import os
import subprocess
import sys

from sae.workspace.priority import MODEL_WORKER, RUN, yield_processor


def test_pages_come_before_the_model_worker_and_that_before_runs() -> None:
    assert 0 < MODEL_WORKER < RUN
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield_processor(child.pid, MODEL_WORKER)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, ours + MODEL_WORKER)
        yield_processor(child.pid, 40)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
        child.communicate(b"\n")
    yield_processor(child.pid, RUN)  # it has ended, and nothing is raised
