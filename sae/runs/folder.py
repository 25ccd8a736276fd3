"""The contract of a run folder, the one thing that launchers, pages and programs share.

    spec.json        what to do: {"kind", "spec", ...}, written once by whoever creates the run
    status.json      where it stands, replaced atomically; the heartbeat is its `heartbeat`
    progress.jsonl   one JSON object a line: the curves
    log.txt          what the program printed
    cancel           if this file exists, the run stops at the next safe point
    ckpt/            whatever the run needs to go on after a kill

Whoever runs the folder (supervisor, torchrun, a person) uses the same command,
`saescope run <folder>`, and running it again resumes it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sae.errors import UserError
from sae.workspace.files import write_json

Kind = Literal["train", "sweep", "index", "evaluate", "import", "compare"]
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
HEARTBEAT_S = 1.0


@dataclass
class Status:
    """`status.json`.  `done`/`total` are in `unit`; `overall` is the share of the whole run."""

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
    started: float | None = None
    finished: float | None = None
    heartbeat: float = 0.0


class ProgressFile:
    """The rows of a run's `progress.jsonl`, for a reader who comes back: only what was added is read again.

    They are as if the run had never been killed: a line cut short is skipped, and so are training steps after the
    checkpoint from which a resumed run did them once more.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "progress.jsonl"
        self._file_id, self._offset = -1, 0
        self._rows: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return all rows so far; the list is the reader's own."""
        try:
            with open(self._path, "rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._file_id or stat.st_size < self._offset:  # another file than before
                    self._file_id, self._offset, self._rows = stat.st_ino, 0, []
                file.seek(self._offset)
                added = file.read()
        except OSError:
            return list(self._rows)
        whole, newline, _ = added.rpartition(b"\n")  # a line that is being written is read the next time
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
            while self._rows and "step" in row and _place(self._rows[-1]) >= _place(row):
                self._rows.pop()
            self._rows.append(row)


def _place(row: dict[str, Any]) -> tuple[int, int]:
    """A row's place in a run's training: by step, and by the number of the SAE where there are several."""
    return row.get("step", 0), row.get("member", 0)


class RunFolder:
    """Read and write one run folder."""

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
        """Make the folder with its `spec.json`; an existing run is left as it is."""
        if not (self.path / "spec.json").exists():
            write_json(self.path / "spec.json", {"kind": kind, "spec": spec, "created": time.time()})

    def spec(self) -> tuple[Kind, dict[str, Any]]:
        """What to do.  Raises UserError (field `run`) where `spec.json` does not say it."""
        try:
            value = json.loads((self.path / "spec.json").read_text(encoding="utf-8"))
            return str(value["kind"]), dict(value["spec"])  # type: ignore[return-value]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"run: {self.path / 'spec.json'} is not the spec of a run: {error!r}", "run") from None

    def status(self) -> Status | None:
        """Return the status that was written last; None where there is none that can be read.

        A run that is asked to go on with a folder whose status was torn by a full or failing disk begins as if it had
        not written one: its checkpoints and results are what counts.
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

    def progress(self) -> list[dict[str, Any]]:
        """Return the rows of the curves so far (see `ProgressFile`)."""
        return ProgressFile(self).read()

    def request_cancel(self) -> None:
        (self.path / "cancel").touch()

    def clear_cancel(self) -> None:
        (self.path / "cancel").unlink(missing_ok=True)

    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()
