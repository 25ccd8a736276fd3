"""The contract of a run folder, which launchers, pages and programs share.

    spec.json        the task: {"kind", "spec", ...}, written once by the creator of the run
    status.json      the state and progress, replaced atomically; its `heartbeat` shows that the run is alive
    progress.jsonl   the curves, one JSON object per line
    log.txt          the program's output
    cancel           if this file exists, the run stops at the next safe point
    ckpt/            the checkpoints from which a killed run resumes

The supervisor, torchrun and a person all use the same command, `saescope run <folder>`.
Running it again resumes the run.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae.errors import UserError
from sae.workspace.files import atomic_write, write_json

Kind = Literal["train", "sweep", "index", "evaluate", "import", "compare", "explain", "index-part",
               "sweep-part", "evaluate-part", "explain-part", "activations"]
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
HEARTBEAT_S = 1.0


@dataclass
class Status:
    """The content of `status.json`.  `done` and `total` are in `unit`; `overall` is the finished share of the run."""

    state: str = "starting"  # starting running succeeded failed cancelled
    phase: str = ""
    phases: list[str] = field(default_factory=list)
    done: float = 0
    total: float = 0
    unit: str = "tokens"
    rate: float | None = None  # units per second, now
    eta_s: float | None = None  # seconds left for the whole run
    overall: float = 0.0
    message: str = ""
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)  # {"sae": id, "build": id, ...}
    pid: int | None = None
    host: str = ""  # where `pid` is; "": unknown
    attempt: int | None = None  # of the supervisor that started the process; None: someone else did
    started: float | None = None
    finished: float | None = None
    heartbeat: float = 0.0


class ProgressFile:
    """An incremental reader of a run's `progress.jsonl`: each `read` parses only the lines added since the last.

    The rows look as if the run had never been killed.  A truncated line is skipped.  Steps that a resumed run
    repeated after its checkpoint appear once.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "progress.jsonl"
        self._file_id, self._offset = -1, 0
        self._rows: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return a new list of all rows so far."""
        try:
            with open(self._path, "rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._file_id or stat.st_size < self._offset:  # the file was replaced
                    self._file_id, self._offset, self._rows = stat.st_ino, 0, []
                file.seek(self._offset)
                added = file.read()
        except OSError:
            return list(self._rows)
        whole, newline, _ = added.rpartition(b"\n")  # an unfinished last line is left for the next read
        self._offset += len(whole) + len(newline)
        for line in whole.split(b"\n"):
            self._add(line)
        return list(self._rows)

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line or b"null")
        except ValueError:
            return
        if isinstance(row, dict) and row:
            while self._rows and "step" in row and order(self._rows[-1]) >= order(row):
                self._rows.pop()
            self._rows.append(row)


def order(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return a training row's sort key: its site, of several, its step, and the number of its SAE in a sweep."""
    return row.get("site", 0), row.get("step", 0), row.get("member", 0)


class RunFolder:
    """Access to the files of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "ckpt"

    def create(self, kind: Kind, spec: dict[str, Any]) -> None:
        """Make the folder with its `spec.json`, unless it already has one."""
        if not (self.path / "spec.json").exists():
            write_json(self.path / "spec.json", {"kind": kind, "spec": spec, "created": time.time()})

    def spec(self) -> tuple[Kind, dict[str, Any]]:
        """Return (kind, spec values).  Raises UserError (field `run`) if `spec.json` is not a run's spec."""
        try:
            value = json.loads((self.path / "spec.json").read_text(encoding="utf-8"))
            return str(value["kind"]), dict(value["spec"])  # type: ignore[return-value]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"run: {self.path / 'spec.json'} is not the spec of a run: {error!r}", "run") from None

    def status(self) -> Status | None:
        """Return the latest status, or None if it is missing or unreadable.

        A full or failing disk can truncate the file.  The run then resumes from its checkpoints and results, which
        do not depend on the status.
        """
        try:
            value = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
            known = Status.__dataclass_fields__
            return Status(**{key: item for key, item in value.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write_status(self, status: Status) -> None:
        status.heartbeat = time.time()
        write_json(self.path / "status.json", asdict(status))

    def append_progress(self, row: dict[str, Any]) -> None:
        with open(self.path / "progress.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def replace_progress(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the file of curves anew, whole or not at all."""
        with atomic_write(self.path / "progress.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")

    def progress(self) -> list[dict[str, Any]]:
        """Return the rows of the curves so far (see `ProgressFile`)."""
        return ProgressFile(self).read()

    def request_cancel(self) -> None:
        (self.path / "cancel").touch()

    def clear_cancel(self) -> None:
        (self.path / "cancel").unlink(missing_ok=True)

    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()
