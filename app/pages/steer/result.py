"""A steering run, and what its page and its events need of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from sqlalchemy.orm import Session

from app.db.tables import SteerRun
from app.pages.steer.form import MODE_NAMES
from app.pages.steer.next_token_view import kl_chart
from app.pages.steer.run_view import RunView, run_view
from app.pages.steer.sweep_strengths import PERPLEXITY_TIMES, REPETITION_MORE, Verdict, verdict
from app.pages.steer.sweep_view import sweep_charts, sweep_rows
from app.web.templating import render_to_string
from app.worker.relayed_runs import remote_run
from app.worker.steering_runs import LiveRun, SteeringRuns


@dataclass(frozen=True)
class Found:
    """A run's row, and the live run while it is not finished."""

    row: SteerRun
    live: LiveRun | None

    def view(self, by: int | None = None) -> RunView:
        return run_view(self.row, self.live, by)


def find(db: Session, runs: SteeringRuns, run_id: str) -> Found:
    """Return the run.  Raises 404 if there is no such run."""
    # In this order: a run that is no longer live is already stored as finished.
    live = runs.get(run_id)
    row = db.get(SteerRun, run_id)
    if row is None:
        raise HTTPException(404, f"There is no steering run {run_id}.")
    return Found(row, live or remote_run(db, runs, row))


def run_context(run: RunView, names: Mapping[str, str], gone: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the result's templates need of a run.

    `names` are the names of its latents by `<sae>/<number>`, and `gone` its SAEs that are not here any more.
    """
    return {
        "run": run, "gone": gone, "latent_names": names, "mode_names": MODE_NAMES, "kl_chart": kl_chart(run),
        "rows": sweep_rows(run) if run.sweep else [], "sweep_charts": sweep_charts(run),
        "perplexity_times": PERPLEXITY_TIMES, "repetition_more": REPETITION_MORE, "verdict": _verdict(run)}


def _verdict(run: RunView) -> Verdict | None:
    if run.sweep is None or not run.cells:
        return None
    return verdict(run.cells, run.sweep.request.interventions[run.sweep.place].mode)


def run_events(run: RunView, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (event, HTML) of every part of the result that changes during a run, always the whole part."""
    context = run_context(run, names)
    if run.sweep:
        parts = [("sweep", render_to_string("steer/_sweep.html", **context))]
    else:
        parts = [(column.key, render_to_string("steer/_text.html", run=run, column=column)) for column in run.columns]
        if run.final:
            parts.append(("readout", render_to_string("steer/_readout.html", **context)))
    return [*parts, ("status", render_to_string("steer/_status.html", **context))]
