"""The table of a conformance check, and the file that keeps it.  No torch."""

from __future__ import annotations

import glob
import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from sae.lm.model_info import ModelInfo
from sae.workspace.files import write_json
from sae.workspace.paths import Workspace

Status = Literal["holds", "slow", "refused"]
FORMAT = 2  # of the file; also changes with what is checked
SINGLE_HEADS = "single heads"  # a line of the table, which stands for the heads of q, k, v and z
_LIBRARIES = ("torch", "transformers", "transformer_lens", "tokenizers")


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, whether it holds, and the reason or the measured fact."""

    subject: str
    status: Status
    detail: str = ""


@dataclass
class Report:
    """What was found out about one model.  `refused`: hook points that are not offered, with the reason."""

    model: str
    architecture: str
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    way: str = ""  # of reading token by token: fast, cached (the model's own cache), whole (the whole text each time)
    error: str = ""  # the line with which the whole model is refused

    def add(self, subject: str, status: Status, detail: str = "") -> None:
        """Append one line."""
        self.rows.append(Row(subject, status, detail))

    def status_of(self, subject: str) -> Status | None:
        """Return the status of a line, None where there is none."""
        return next((row.status for row in self.rows if row.subject == subject), None)

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Report | None:
        """Read a report; None where there is no readable one of this format."""
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                return None
            rows = [Row(**row) for row in value.pop("rows")]
            return cls(rows=rows, **value)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def latest(model_id: str, workspace: Workspace) -> Report | None:
    """Return the newest report that the workspace keeps of a model; None if it was never checked here."""
    files = (workspace.root / "conformance").glob(f"{glob.escape(model_id)}-{'[0-9a-f]' * 24}.json")
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        if (report := Report.load(path)) is not None:
            return report
    return None


def digest(info: ModelInfo, device: str, dtype: str = "float32") -> str:
    """Return a name for what a check depends on: the model's files, the libraries and the kind of device."""
    about: dict[str, Any] = {"format": FORMAT, "device": device, "source": info.source,
                             "versions": [version(name) for name in _LIBRARIES]}
    if dtype != "float32":
        about["dtype"] = dtype
    for file in [file for folder in filter(None, (info.source, info.adapter)) if Path(folder).is_dir()
                 for file in sorted(Path(folder).iterdir())]:
        if file.suffix == ".json" and file.stat().st_size < 1 << 20:
            about[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.is_file():
            about[file.name] = [file.stat().st_size, file.stat().st_mtime_ns]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
