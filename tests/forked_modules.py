"""Workers and readers of files that start in milliseconds, forked by a process that has imported what they import.

They are processes as the program starts them, with its arguments, environment, input, output and sockets.  Only
`python -m <module>` is replaced, and its imports, which take 2 to 5 seconds of a core.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from types import SimpleNamespace
from typing import Any

from tests.runs import CONTEXT

MODULES = ("app.worker.server", "app.page_workers.process", "sae.runs.inspect_source")
_PYTHON = sys.executable


def forking() -> Any:
    """Return a `subprocess` that forks the modules of `MODULES`, and starts everything else as usual."""
    return SimpleNamespace(**{**vars(subprocess), "Popen": _popen, "run": _run})


def _popen(command: list[str], **options: Any) -> Any:
    if command[0] == _PYTHON and command[1] == "-m" and command[2] in MODULES:
        return Forked(command[2], command[3:], **options)
    return subprocess.Popen(command, **options)


def _run(command: list[str], *, input: str, timeout: float, env: dict[str, str], **_: Any) -> Any:
    with tempfile.TemporaryFile("w+") as output:
        process = Forked(command[2], command[3:], stdin=subprocess.PIPE, stdout=output, env=env)
        with process.stdin:
            process.stdin.write(input.encode())
        code = process.wait(timeout)
        output.seek(0)
        return subprocess.CompletedProcess(command, code, output.read(), "")


class _Descriptor:
    """A file descriptor of this process, which is another number in the process that receives it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _receive, (DupFd(self.number),)


def _receive(sent: Any) -> int:
    return int(sent.detach())


class Forked:
    """As much of `subprocess.Popen` as the program uses of its workers."""

    def __init__(
        self, module: str, arguments: list[str], *, stdin: Any, stdout: Any, pass_fds: Sequence[int] = (),
        env: dict[str, str] | None = None, **_: Any
    ) -> None:
        self._lock = threading.Lock()
        read, write = os.pipe()
        output = None if stdout == subprocess.DEVNULL else _Descriptor(stdout.fileno())
        self._process = CONTEXT.Process(target=_be, daemon=True, args=(
            module, arguments, _Descriptor(read), output,
            {str(number): _Descriptor(number) for number in pass_fds}, env or dict(os.environ)))
        self._process.start()
        os.close(read)
        self.stdin = os.fdopen(write, "wb")
        if stdin == subprocess.DEVNULL:
            self.stdin.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        while (code := self.poll()) is None:  # several threads may wait, but only one may read the code
            if not wait([self._process.sentinel], timeout):
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return code

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _be(
    module: str, arguments: list[str], stdin: int, output: int | None, passed: dict[str, int], env: dict[str, str]
) -> None:
    """Be `python -m <module> <arguments>`, where the numbers of passed descriptors are the ones of this process."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    output = os.open(os.devnull, os.O_WRONLY) if output is None else output
    os.dup2(stdin, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(stdin)
    os.close(output)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = [module, *(str(passed.get(one, one)) for one in arguments)]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
