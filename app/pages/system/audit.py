"""Admin ▸ Log: what administrators have done."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from app.access import audit
from app.pages.dependencies import SessionDep, admin_user
from app.web.parameters import whole_number
from app.web.templating import render

router = APIRouter(prefix="/admin/log", dependencies=[Depends(admin_user)], include_in_schema=False)

_SHOWN = 100


@router.get(".json")
def log_json(db: SessionDep, before: str = "") -> JSONResponse:
    """Return the entries as JSON, newest first."""
    return JSONResponse([
        {"id": one.id, "at": one.at, "user": one.user, "action": one.action, "path": one.path, "detail": one.detail}
        for one in audit.entries(db, whole_number(before), _SHOWN)])


@router.get("")
def show_log(request: Request, db: SessionDep, before: str = "") -> Response:
    """Show the entries, newest first; `before` is the id of the last one shown."""
    found = audit.entries(db, whole_number(before), _SHOWN)
    return render(request, "system/audit.html", section="admin", entries=found, more=len(found) == _SHOWN,
                  first=before == "", json_url="/admin/log.json")
