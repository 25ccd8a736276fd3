"""The curves of a run for other programs: TensorBoard's event files, and Weights & Biases.

The curves are read from the run's folder, so a run may be exported while it is active or at any time later, and no run
depends on either library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sae.errors import UserError
from sae.runs.folder import FINAL_STATES, ProgressFile, RunFolder

KINDS = ("tensorboard", "wandb")
_POLL_S = 1.0
_NOT_CURVES = frozenset({"time", "step", "tokens", "member", "phase"})


@dataclass(frozen=True)
class Point:
    """Values of one moment of one SAE: `member` is its place in a sweep, None if the run has only one SAE."""

    member: int | None
    step: int
    time: float
    values: dict[str, float]


class Writer(Protocol):
    """A place that takes points; each member of a sweep is a run of its own there."""

    def add(self, point: Point) -> None: ...

    def close(self) -> None: ...


def points(rows: list[dict[str, Any]]) -> Iterator[Point]:
    """Yield the numbers of each row of `progress.jsonl` as `<phase>/<name>`, with the tokens trained on as a curve.

    A row without a step, such as one of the evaluation, stands one step after the training of its SAE.
    """
    last: dict[int | None, int] = {}
    for row in rows:
        phase, member = str(row.get("phase", "training")), row.get("member")
        step = int(row["step"]) if "step" in row else last.get(member, 0) + 1
        last[member] = max(step, last.get(member, 0))
        values = {f"{phase}/{name}": float(value) for name, value in row.items()
                  if name not in _NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool)}
        if "step" in row and "tokens" in row:
            values[f"{phase}/tokens"] = float(row["tokens"])
        if values:
            yield Point(member, step, float(row.get("time", 0.0)), values)


def export(folder: RunFolder, writer: Writer, follow: bool = False, poll_s: float = _POLL_S) -> int:
    """Write the curves of a run and return the number of points.

    With `follow`, continue until the run has ended.  Points that a resumed run repeats are written once.
    """
    file, written = ProgressFile(folder), set[tuple[int | None, int, tuple[str, ...]]]()
    try:
        while True:
            status = folder.status()
            ended = status is not None and status.state in FINAL_STATES
            for point in points(file.read()):
                key = point.member, point.step, tuple(point.values)
                if key not in written:
                    written.add(key)
                    writer.add(point)
            if ended or not follow:
                return len(written)
            time.sleep(poll_s)
    finally:
        writer.close()


def make_writer(kind: str, folder: RunFolder, out: Path, project: str = "saescope") -> Writer:
    """Return a writer of one of KINDS.

    Raises UserError: field `to` if the kind is unknown or its library is missing, `out` if the folder has event files
    of this run already.
    """
    if kind not in KINDS:
        raise UserError(f"to: {kind!r} is not one of {', '.join(KINDS)}", "to")
    try:
        return TensorBoardWriter(folder, out) if kind == "tensorboard" else WandbWriter(folder, out, project)
    except ImportError:
        raise UserError(
            f"to: the library is not installed; install it with: pip install 'saescope[{kind}]'", "to") from None


def _names(folder: RunFolder) -> Callable[[int | None], str]:
    """Return the function that names a member: by its SAE where the run says which."""
    status = folder.status()
    members = (status.result.get("members") or []) if status else []

    def name(member: int | None) -> str:
        if member is None:
            return folder.id
        known = members[member] if member < len(members) else {}
        return f"{folder.id}/{known.get('name') or f'member-{member}'}"

    return name


class TensorBoardWriter:
    """A writer of event files below `out/<run>`, one folder for each SAE."""

    def __init__(self, folder: RunFolder, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

        if next((out / folder.id).rglob("events.out.tfevents.*"), None):
            raise UserError(f"out: {out / folder.id} already has event files; name another folder", "out")
        self._make, self._out, self._name = SummaryWriter, out, _names(folder)
        self._writers: dict[int | None, Any] = {}

    def add(self, point: Point) -> None:
        if point.member not in self._writers:
            self._writers[point.member] = self._make(str(self._out / self._name(point.member)))
        for name, value in point.values.items():
            self._writers[point.member].add_scalar(name, value, point.step, walltime=point.time)
        self._writers[point.member].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WandbWriter:
    """A writer to Weights & Biases, one run there for each SAE, grouped by our run.

    A run that is exported again continues under the same id, where steps that it has are ignored.
    """

    def __init__(self, folder: RunFolder, out: Path, project: str) -> None:
        import wandb

        self._wandb, self._out, self._project, self._name = wandb, out, project, _names(folder)
        self._group, (self._kind, self._spec) = folder.id, folder.spec()
        self._runs: dict[int | None, Any] = {}

    def add(self, point: Point) -> None:
        if point.member not in self._runs:
            self._out.mkdir(parents=True, exist_ok=True)
            name = self._name(point.member)
            self._runs[point.member] = self._wandb.init(
                project=self._project, id=name.replace("/", "-"), name=name, group=self._group, job_type=self._kind,
                config=self._spec, dir=str(self._out), resume="allow", reinit="create_new")
        self._runs[point.member].log(point.values, step=point.step)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
