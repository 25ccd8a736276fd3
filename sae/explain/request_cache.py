"""The requests of a run and their answers, on disk by a digest of the request.  No torch.

A killed run finds here what it has already paid for.  Prompts and raw answers stay readable, for those who want to know
why a score is low.  The key of the endpoint is no part of a request.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from threading import Lock
from typing import Any

FILE = "requests.jsonl"


def key_of(request: dict[str, Any]) -> str:
    """Return the digest of a request: of the model, the parameters and the messages."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class RequestCache:
    """An append-only file of {key, request, answer}.  Memory holds only where each answer is."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._place: dict[str, tuple[int, int]] = {}
        self.tokens_in = self.tokens_out = 0
        self._load()

    def __len__(self) -> int:
        return len(self._place)

    def _load(self) -> None:
        try:
            file = open(self._path, "rb")  # noqa: SIM115  (closed below)
        except FileNotFoundError:
            return
        with file:
            at = 0
            for line in file:
                row = _parsed(line)
                if row is not None:
                    self._place[row["key"]] = (at, len(line))
                    self.tokens_in += row["answer"]["tokens_in"]
                    self.tokens_out += row["answer"]["tokens_out"]
                at += len(line)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the stored answer, or None."""
        with self._lock:
            place = self._place.get(key)
            if place is None:
                return None
            with open(self._path, "rb") as file:
                file.seek(place[0])
                row = _parsed(file.read(place[1]))
        return row["answer"] if row else None

    def put(self, key: str, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Store an answer.  It is in the file when this returns."""
        line = json.dumps({"key": key, "request": request, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        with self._lock, open(self._path, "ab+") as file:
            end = file.seek(0, 2)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # the line of a killed process
                    file.write(b"\n")
                    end += 1
            file.write(line)
            self._place[key] = (end, len(line))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        answer = row["answer"]
        if isinstance(row["key"], str) and isinstance(answer["text"], str):
            return row if all(isinstance(answer[name], int) for name in ("tokens_in", "tokens_out")) else None
    except (ValueError, KeyError, TypeError):
        pass
    return None
