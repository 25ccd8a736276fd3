"""The curves of several runs over each other, and the settings in which the runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markupsafe import Markup
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.jobs import queue
from app.pages.dependencies import SessionDep, WorkspaceDep
from app.pages.runs.run_views import CURVES, RunView, curve_points, progress_rows, view
from app.pages.runs.spec_form import in_order, label
from app.render import charts
from app.web.templating import render
from sae.errors import UserError
from sae.specs.registry import SweepSpec, parse_spec
from sae.workspace.paths import Workspace

router = APIRouter(include_in_schema=False)

LINES = 4  # that a chart can tell apart
_LISTED = 100  # runs that are offered


@dataclass(frozen=True)
class Line:
    """A training whose curves can be drawn: a run, or one SAE of a sweep (`member`)."""

    run: RunView
    member: int | None
    name: str
    spec: dict[str, Any]

    @property
    def key(self) -> str:
        """Return its name in an address."""
        return self.run.id if self.member is None else f"{self.run.id}:{self.member}"


@router.get("/runs/curves")
def show_curves(request: Request, db: SessionDep, workspace: WorkspaceDep) -> Response:
    """Draw the curves of the trainings that `line` names (a run's id, for a sweep `<id>:<member>`), at most LINES."""
    asked = list(dict.fromkeys(request.query_params.getlist("line")))
    offered = [line for run in queue.newest(db, _LISTED) for line in lines_of(run, workspace)]
    known = {line.key: line for line in offered} | _of_runs(db, workspace, asked)
    wanted = [key if key in known or f"{key}:0" not in known else f"{key}:0" for key in asked]
    chosen = [known[key] for key in wanted if key in known][:LINES]
    faults = [f"line: there is no training run {key[:60]!r}" for key in wanted if key not in known]
    if len(wanted) > LINES + len(faults):
        faults.append(f"line: the charts show the first {LINES} of {len(wanted)} runs")
    return render(
        request, "runs/curves.html", 422 if faults and not chosen else 200, section="runs", offered=offered,
        chosen=chosen, keys={line.key for line in chosen}, faults=faults, charts=_charts(chosen, workspace),
        differing=_differing(chosen), most=LINES)


def lines_of(run: Run, workspace: Workspace) -> list[Line]:
    """Return the trainings of a run: one, one for each SAE of a sweep, none of other kinds."""
    if run.kind not in ("train", "sweep"):
        return []
    shown = view(run, workspace)
    if run.kind == "train":
        return [Line(shown, None, shown.title, run.spec)]
    try:
        spec = parse_spec("sweep", run.spec)
    except UserError:
        return []
    assert isinstance(spec, SweepSpec)
    return [Line(shown, i, f"{one.architecture}, L = {one.n_latents}, k = {one.k} ({run.id})", one.model_dump())
            for i, one in enumerate(spec.members())]


def _of_runs(db: Session, workspace: Workspace, keys: Sequence[str]) -> dict[str, Line]:
    """Return the trainings of older runs, which are not offered but may be in an address."""
    found = [db.get(Run, key.partition(":")[0][:200]) for key in keys[: 4 * LINES]]
    return {line.key: line for run in found if run is not None for line in lines_of(run, workspace)}


def _charts(chosen: Sequence[Line], workspace: Workspace) -> list[Markup]:
    """Draw the first line of each kind of curve for all trainings; kinds without values are left out."""
    rows = [[row for row in progress_rows(line.run.run, workspace) if row.get("member") == line.member]
            for line in chosen]
    drawn = []
    for title, unit, ((_, key, place), *_) in CURVES:
        series = [charts.Series(line.name, curve_points(some, key, place))
                  for line, some in zip(chosen, rows, strict=True)]
        if any(one.points for one in series):
            drawn.append(charts.line_chart(
                [one for one in series if one.points], title=title, x_label="tokens trained on", y_label=unit,
                zero=title not in ("FVU", "loss")))
    return drawn


def _differing(chosen: Sequence[Line]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all, each with its values."""
    values = [dict(in_order("train", line.spec)) for line in chosen]
    names = dict.fromkeys(name for one in values for name in one)
    rows = [(label(name), [one.get(name, "–") for one in values]) for name in names]
    return [(name, said) for name, said in rows if len(set(said)) > 1]
