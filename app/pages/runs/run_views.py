"""The state of a run, from its row and its folder, for pages and for the API."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from threading import Lock
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from app.db.tables import Run
from app.jobs import queue
from app.render import charts
from sae.runs.folder import ProgressFile, RunFolder, Status
from sae.runs.import_sae import UPLOAD
from sae.specs.registry import SPECS, PartSpec, TrainSpec, as_text
from sae.workspace.paths import Workspace

AUTOMATIC = "the empty workspace"  # who requests the demo run
_PROGRESS_FILES = 32
_progress_files: OrderedDict[Path, ProgressFile] = OrderedDict()  # used longest ago first
_progress_lock = Lock()
STALE_S = 120  # a heartbeat this old is mentioned; loading a large model takes a while without one
_VERBS = {"train": "Train", "sweep": "Train", "index": "Index", "evaluate": "Evaluate", "import": "Import",
          "compare": "Compare", "explain": "Explain", "activations": "Keep activations"}
# Title, unit and lines of each curve; a line is a name, a key in progress.jsonl, and an index into a list of values.
CURVES: tuple[tuple[str, str, tuple[tuple[str, str, int | None], ...]], ...] = (
    ("FVU", "share of the variance not explained", (("FVU", "fvu", None),)),
    ("L0", "latents per token", (
        ("mean", "l0", None), ("1st decile", "l0_deciles", 0), ("9th decile", "l0_deciles", 8))),
    ("dead latents", "share of all latents", (("dead latents", "dead", None),)),
    ("loss", "of training, in units of FVU", (("loss", "loss", None), ("its sparsity part", "sparsity_loss", None))),
    ("tokens per second", "tokens/s", (
        ("trained on", "tokens_per_s", None), ("language model alone", "lm_tokens_per_s", None),
        ("SAE alone", "sae_tokens_per_s", None))),
    ("learning rate", "of Adam", (("learning rate", "lr", None),)),
    ("θ", "smallest activation kept, or the mean of trained thresholds", (("θ", "theta", None),)),
    ("sparsity coefficient", "weight of the penalty", (("sparsity coefficient", "coefficient", None),)),
)


@dataclass(frozen=True)
class RunView:
    """A run as it is shown.  `status` is None until its program has written one; `checkpoint`: whether there is one."""

    run: Run
    status: Status | None
    place: int = 0  # in the queue, 1 is next; 0: not queued
    checkpoint: bool = False
    now: float = field(default_factory=time.time)
    parts: tuple[RunView, ...] = ()

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def state(self) -> str:
        return self.run.state

    @property
    def title(self) -> str:
        """Its work in a line: "Train demo/… ", "Index demo/2-res-batchtopk-4k"."""
        spec, base = self.run.spec, self.run.kind.removesuffix("-part")
        kind = _VERBS.get(base, base)
        if SPECS.get(self.run.kind) is PartSpec:
            whole = "a grid" if base == "sweep" else self.run.sae_id or "an SAE"
            return f"{kind} {whole}, part {spec.get('part')}"
        if self.run.sae_id:
            return f"{kind} {self.run.sae_id}"
        if self.run.kind == "compare":
            return f"{kind} {spec.get('a')} with {spec.get('b')}"
        if self.run.kind == "import":
            source = PurePath(str(spec.get("source")))
            return f"{kind} {spec.get('name') or (source.name if source.name != UPLOAD else 'an upload')}"
        if self.run.kind == "train":
            name = spec.get("name") or f"{spec.get('architecture')}, L = {spec.get('n_latents')}, k = {spec.get('k')}"
            return f"{kind} {name} on {spec.get('model')}, layer {spec.get('layer')}"
        if self.run.kind == "sweep":
            grid = (f"{as_text(spec.get('architecture', ''))}; L = {as_text(spec.get('n_latents', ''))}; "
                    f"k = {as_text(spec.get('k', ''))}").replace(",", ", ")
            return f"{kind} {spec.get('name') or 'a grid'} ({grid}) on {spec.get('model')}, layer {spec.get('layer')}"
        if self.run.kind == "activations":
            layers = as_text(spec.get("layers", "")).replace(",", ", ")
            return f"{kind} of {spec.get('model')}, layers {layers}"
        return kind

    @property
    def going(self) -> bool:
        return self.state in queue.ACTIVE

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        return self.state in queue.FINISHED

    @property
    def can_cancel(self) -> bool:
        return self.state in queue.WAITING_OR_ACTIVE and self.run.cancel_asked is None

    @property
    def can_resume(self) -> bool:
        """Whether resuming can help: not where a setting is at fault and nothing of the work is kept."""
        return self.state in queue.RESUMABLE and (self.checkpoint or not self.fault)

    @property
    def fault(self) -> str:
        """The setting that made it fail, by its message; "" where none is named."""
        name = (self.run.error or "").partition(":")[0] if self.state == "failed" else ""
        return name if name in SPECS.get(self.run.kind, TrainSpec).model_fields else ""

    @property
    def change_url(self) -> str:
        """The address of the form with its settings, to start it again with changes."""
        if self.run.kind == "compare":
            return "/compare?" + urlencode({name: str(self.run.spec.get(name)) for name in "ab"})
        return f"/admin/{self.run.kind}?run={self.id}"

    @property
    def by(self) -> str:
        """The user or the program that requested it."""
        return {AUTOMATIC: "demo (automatic)"}.get(self.run.requested_by, self.run.requested_by)

    @property
    def starting(self) -> bool:
        """Whether its process is still loading its libraries and the model, and has nothing to show."""
        status = self.status
        return self.going and not self.run.waiting_for and (status is None or not (
            status.done or status.total or status.phase not in ("", *status.phases[:1])))

    @property
    def where(self) -> str:
        """The place where it is executed, with what it asks for; "" for this machine."""
        if self.run.launcher == "local":
            return ""
        name = {"ray": "Ray", "slurm": "Slurm", "elsewhere": f"another host ({self.run.ref})"}[self.run.launcher]
        asked = self.run.resources or {}
        words = [f"{asked[key]} {unit}" for key, unit in (("nodes", "nodes"), ("gpus", "GPUs"), ("cpus", "CPUs"))
                 if asked.get(key, 0) > (1 if key == "nodes" else 0)]
        return ", ".join([f"on {name}", *words])

    @property
    def can_delete(self) -> bool:
        return not self.going

    @property
    def word(self) -> str:
        """The state in a few words, with the place in the queue."""
        if self.going and self.run.cancel_asked is not None:
            return "stopping"
        if self.going and self.run.waiting_for:
            return "waiting"
        if self.starting:
            return "starting"
        if self.state == "queued" and self.parts:
            done = sum(part.state == "succeeded" for part in self.parts)
            return f"{done} of {len(self.parts)} parts done"
        return f"queued, {ordinal(self.place)}" if self.state == "queued" and self.place else self.state

    @property
    def share(self) -> float:
        """The finished share of the whole run, 0 to 1."""
        if self.state == "succeeded":
            return 1.0
        if self.state == "queued" and self.parts:
            return sum(part.share for part in self.parts) / len(self.parts)
        return self.status.overall if self.going and self.status else self.run.progress

    @property
    def phases(self) -> list[tuple[str, str]]:
        """The run's phases in order, each `done`, `now` or `next`."""
        if self.status is None:
            return []
        names, phase = self.status.phases, self.status.phase
        at = names.index(phase) if phase in names else -1
        if self.state == "succeeded":
            at = len(names)
        return [(name, "done" if i < at else "now" if i == at else "next") for i, name in enumerate(names)]

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds from the first start of the run to its end, or to now."""
        if self.run.started is None:
            return None
        return (self.run.finished or self.now) - self.run.started

    @property
    def silent_s(self) -> float | None:
        """Seconds since the program last wrote, if they are many; else None."""
        if not self.going or self.status is None:
            return None
        age = self.now - self.status.heartbeat
        return age if age > STALE_S else None

    @property
    def build(self) -> str | None:
        return (self.status.result.get("build") if self.status else None) or None

    @property
    def comparison(self) -> dict[str, Any] | None:
        """Return the result of a finished comparison: `a`, `b`, and the MMCS of each in the other; else None."""
        result = self.status.result if self.run.kind == "compare" and self.status else {}
        return result if self.state == "succeeded" and {"a", "b", "mmcs_a", "mmcs_b"} <= result.keys() else None

    @property
    def refused(self) -> dict[str, str]:
        """Return the measures that an evaluation could not make, each with the reason."""
        found = self.status.result.get("refused") if self.run.kind == "evaluate" and self.status else None
        return {str(name): str(said) for name, said in found.items()} if isinstance(found, dict) else {}

    @property
    def kept(self) -> dict[str, Any] | None:
        """Return the result of a run that kept activations: their name, tokens, bytes and sites; else None."""
        result = self.status.result if self.run.kind == "activations" and self.status else {}
        whole = {"activations", "tokens", "bytes", "sites"} <= result.keys()
        return result if self.state == "succeeded" and whole else None

    def as_json(self) -> dict[str, Any]:
        """Return the fields of `GET /api/runs`."""
        run, status = self.run, self.status if self.status else Status()
        return {
            "id": run.id, "kind": run.kind, "state": run.state, "title": self.title, "progress": round(self.share, 4),
            "phase": status.phase or None, "phases": status.phases, "done": status.done, "total": status.total,
            "unit": status.unit, "rate": status.rate if self.going else None,
            "eta_s": status.eta_s if self.going else None, "message": status.message, "error": run.error,
            "sae": run.sae_id, "build": self.build, "created": run.created, "started": run.started,
            "finished": run.finished, "requested_by": run.requested_by, "cancelling": self.word == "stopping",
            "launcher": run.launcher, "waiting_for": run.waiting_for, "parent": run.parent,
            "url": f"/runs/{run.id}",
        }


def view(run: Run, workspace: Workspace, waiting: Sequence[str] = (), parts: Sequence[Run] = ()) -> RunView:
    """Return the view of `run`.  `waiting`: ids of the queued runs, next first; `parts`: the runs that do its parts."""
    views = tuple(view(part, workspace, waiting) for part in parts)
    folder = RunFolder(workspace.run(run.id))
    kept = run.state in queue.RESUMABLE and folder.checkpoints.is_dir() and any(folder.checkpoints.iterdir())
    kept = kept or any(part.checkpoint for part in views)
    return RunView(run, folder.status(), waiting.index(run.id) + 1 if run.id in waiting else 0, kept, parts=views)


def ordinal(number: int) -> str:
    """Return "1st", "2nd", "3rd", "4th", "11th", …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def progress_rows(run: Run, workspace: Workspace) -> list[dict[str, Any]]:
    """Return the rows of training curves that the run has written so far."""
    rows = all_progress(RunFolder(workspace.run(run.id)))
    return [row for row in rows if row.get("phase", "training") == "training"]


def all_progress(folder: RunFolder) -> list[dict[str, Any]]:
    """Return every row that the run has written.  Rows that were parsed for one viewer are kept for the next."""
    with _progress_lock:
        file = _progress_files.pop(folder.path, None) or ProgressFile(folder)
        _progress_files[folder.path] = file
        while len(_progress_files) > _PROGRESS_FILES:
            _progress_files.popitem(last=False)
        return file.read()


def curves(
    rows: Sequence[dict[str, Any]], table: bool = True, first: int | None = None, width: int = 420, height: int = 180
) -> list[Markup]:
    """Return the curves of one SAE as charts: the `first` ones or all, without those that have no values.

    `table`: with the numbers to unfold.
    """
    shown = []
    for label, unit, lines in CURVES[:first]:
        series = [charts.Series(name, points) for name, key, place in lines
                  if (points := curve_points(rows, key, place))]
        if label == "loss":  # most architectures have no sparsity part
            series = [one for one in series if any(y for _, y in one.points)]
        if series:
            shown.append(charts.line_chart(
                series, title=label, x_label="tokens trained on", y_label=unit, zero=label not in ("FVU", "loss"),
                table=table, width=width, height=height))
    return shown


def curve_points(rows: Sequence[dict[str, Any]], key: str, place: int | None) -> list[tuple[float, float]]:
    """Return (tokens, value) of each row that has the value `key`; `place` is an index if the value is a list."""
    found = []
    for row in rows:
        value = row.get(key)
        if place is not None:
            value = value[place] if isinstance(value, list) and place < len(value) else None
        if isinstance(row.get("tokens"), int | float) and isinstance(value, int | float):
            found.append((float(row["tokens"]), float(value)))
    return found


def rate_split(rows: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Return the shares (language model, SAE) of the time of the whole training, or None where no row has times.

    `lm_fill_s` are the seconds of the language model before the first step, which no row's rate contains.
    """
    several = [row["member"] for row in rows if "member" in row]
    rows = [row for row in rows if row.get("member") == several[-1]] if several else rows  # all have the same times
    spent = of_lm = 0.0
    before: dict[str, Any] = {}
    for row in rows:
        try:
            seconds = (row["tokens"] - before.get("tokens", 0)) / row["tokens_per_s"]
            fill_s = row.get("lm_fill_s", 0.0)
            spent, of_lm = spent + seconds + fill_s, of_lm + seconds * min(1.0, max(0.0, row["lm_share"])) + fill_s
        except (KeyError, TypeError, ZeroDivisionError):
            continue
        before = row
    return (of_lm / spent, 1 - of_lm / spent) if spent > 0 else None
