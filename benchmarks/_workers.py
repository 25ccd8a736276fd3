"""Processes that train on request, so that two trainers can take turns, each with its own memory."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import Any

from benchmarks._peers import PEERS, environment


class Worker:
    """A process that reads one JSON request per line and answers with one JSON object per line."""

    def __init__(self, *command: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the worker)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer.  Raises RuntimeError with the end of stderr if the process has died."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.process.args} has ended:\n{self.errors.read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def trainers() -> Worker:
    """Start the worker of dictionary_learning and sparsify in their own environment."""
    return Worker(str(environment("trainers")), str(PEERS / "trainers.py"))


def saelens() -> Worker:
    """Start SAELens in its own environment."""
    return Worker(str(environment("saelens")), str(PEERS / "saelens.py"))
