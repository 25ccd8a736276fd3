"""Addresses for monitoring: liveness, readiness, and metrics for Prometheus."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from app.db.tables import LoginSession, Run, Sae, SteerRun
from app.jobs.supervisor import Supervisor
from app.pages.dependencies import SessionDep, SettingsDep
from app.web import metrics

ELSEWHERE = "another server supervises the runs"
_LOW_BYTES = 100_000_000  # with less free space the server is not ready, because it could soon store nothing

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process answers")
def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Whether database, workspace, disk, model worker and supervisor work",
            responses={503: {"description": "not ready"}})
def readyz(request: Request, response: Response, db: SessionDep, settings: SettingsDep) -> dict[str, object]:
    checks: dict[str, str] = {}
    try:
        db.execute(text("SELECT 1"))
        checks["database"] = "ok"
    except SQLAlchemyError as error:
        checks["database"] = f"{type(error).__name__}"
    if request.app.state.read_only:
        checks["workspace"] = "read-only"
    else:
        checks |= _check_writing(settings.home)
    checks["worker"] = request.app.state.worker.condition()
    supervisor: Supervisor = request.app.state.supervisor
    checks["supervisor"] = (
        "its thread has ended" if not supervisor.healthy() else "ok" if supervisor.leads() else ELSEWHERE)
    # A model worker that ended starts again with the next request, so pages need not wait for it.
    ready = all(value in ("ok", "read-only", ELSEWHERE) for name, value in checks.items() if name != "worker")
    response.status_code = 200 if ready else 503
    return {"status": "ok" if ready else "not ready", "checks": checks}


def _check_writing(home: Path) -> dict[str, str]:
    """Return whether the workspace can be written, and whether there is room on its disk."""
    try:
        probe = home / ".ready"
        probe.touch()
        probe.unlink(missing_ok=True)
        written = "ok"
    except OSError as error:
        written = f"cannot be written: {error.strerror}"
    free = shutil.disk_usage(home).free if home.is_dir() else 0
    return {"workspace": written, "disk": "ok" if free >= _LOW_BYTES else f"only {free / 1e6:,.0f} MB are free"}


@router.get("/metrics", summary="Metrics for Prometheus", include_in_schema=False)
def read_metrics(db: SessionDep) -> Response:
    metrics.RUNS.clear()
    for state, n in db.execute(select(Run.state, func.count()).group_by(Run.state)):
        metrics.RUNS.labels(state).set(n)
    metrics.STEERS.clear()
    for state, n in db.execute(select(SteerRun.state, func.count()).group_by(SteerRun.state)):
        metrics.STEERS.labels(state).set(n)
    metrics.SAES.set(db.scalar(select(func.count()).select_from(Sae)) or 0)
    built = select(func.count()).select_from(Sae).where(Sae.current_build.is_not(None))
    metrics.BUILDS.set(db.scalar(built) or 0)
    signed_in = select(func.count()).select_from(LoginSession).where(LoginSession.expires > time.time())
    metrics.USERS.set(db.scalar(signed_in) or 0)
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
