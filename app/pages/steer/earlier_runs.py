"""Earlier steering runs of this browser, as the steering page lists them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.db.tables import SteerRun
from app.pages.earlier import STEERED
from app.pages.steer.form import MODE_NAMES
from app.pages.steer.run_view import stored_request, stored_sweep
from app.render.numbers import minus
from sae.steering.request import Intervention


@dataclass(frozen=True)
class EarlierRun:
    """One run: the changed latents, and the text that it continued."""

    id: str
    created: float
    state: str
    sae: str
    latents: str
    prompt: str


def earlier_runs(db: Session, request: Request) -> list[EarlierRun]:
    """Return the browser's runs, newest first, without deleted ones."""
    ids = STEERED.read(request)
    if not ids:
        return []
    rows = db.scalars(select(SteerRun).where(SteerRun.id.in_(ids)).options(defer(SteerRun.result)))
    found = {row.id: _earlier(row) for row in rows}
    return [found[run_id] for run_id in ids if run_id in found]


def _earlier(row: SteerRun) -> EarlierRun:
    request, _ = stored_request(row)
    sweep = stored_sweep(row)
    words = [f"{i.latent} at {len(sweep.strengths)} strengths" if sweep and place == sweep.place else _words(i)
             for place, i in enumerate(request.interventions)]
    prompt = request.prompt or request.chat[-1].content
    return EarlierRun(row.id, row.created, row.state, row.sae_id, ", ".join(words), " ".join(prompt.split()))


def _words(i: Intervention) -> str:
    if i.mode in ("ablate", "remove"):
        return f"{i.latent} {MODE_NAMES[i.mode]}"
    number = {"add": f"{i.strength:+g}× max", "clamp": f"to {i.strength:g}× max"}.get(i.mode, f"× {i.strength:g}")
    return f"{i.latent} {minus(number)}"
