"""Tests of the end of a command's process."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEFORE = ("import atexit, sys, threading, time; from sae.cli.ending import end_at_once\n"
          "atexit.register(lambda: print('registered')); print('printed')\n"
          "class Unloaded:\n    def __del__(self): print('unloaded')\n"
          "kept = Unloaded()\n")


def run(command: str) -> tuple[int, list[str], str]:
    done = subprocess.run([sys.executable, "-c", BEFORE + command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize(("command", "code"), [
    ("end_at_once(lambda: None)", 0), ("end_at_once(sys.exit)", 0), ("end_at_once(lambda: sys.exit(3))", 3)])
def test_nothing_is_unloaded_but_the_end_is_complete(command: str, code: int) -> None:
    assert run(command) == (code, ["printed", "registered"], "")


def test_a_message_and_an_error_end_as_python_ends_them() -> None:
    assert run("end_at_once(lambda: sys.exit('why'))") == (1, ["printed", "registered", "unloaded"], "why\n")
    code, out, err = run("end_at_once(lambda: 1 / 0)")
    assert (code, out, err.splitlines()[-1]) == (
        1, ["printed", "registered", "unloaded"], "ZeroDivisionError: division by zero")


def test_a_thread_at_work_finishes() -> None:
    work = "threading.Thread(target=lambda: (time.sleep(0.1), print('worked'))).start()\nend_at_once({end})"
    for end, code in (("lambda: None", 0), ("lambda: sys.exit(3)", 3)):
        assert run(work.format(end=end)) == (code, ["printed", "worked", "registered", "unloaded"], "")
