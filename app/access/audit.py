"""The log of what administrators do: every change that a handler for administrators has made.

`admin_user` marks the request, and `AuditLog` writes the entry once the answer says that the change was made.  So no
handler can forget it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.middleware import SAFE_METHODS
from app.db.people_tables import AuditEntry
from app.db.tables import User

_MARK = "saescope.administrator"


def mark_change(request: Request, user: User) -> None:
    """Note that an administrator makes the request, if it may change something."""
    if request.method not in SAFE_METHODS:
        request.scope.setdefault("state", {})[_MARK] = user.name


def say(request: Request, detail: str) -> None:
    """Add a detail to the entry of this request, such as the name of a new user.  Secrets do not belong there."""
    request.state.audit_detail = detail


def entries(db: Session, before: int | None = None, limit: int = 100) -> Sequence[AuditEntry]:
    """Return the latest entries, or those before an entry's id, newest first."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    return list(db.scalars(query if before is None else query.where(AuditEntry.id < before)))


class AuditLog:
    """Middleware that writes an entry for each change that an administrator has made."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        done: list[str] = []

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("state", {}).get(_MARK):
                where = _made(message["status"], Headers(raw=message["headers"]), scope["path"])
                if where is not None:
                    done.append(where)
                    await run_in_threadpool(_write, scope, where)
            await send(message)

        await self.app(scope, receive, watch)


def _made(status: int, headers: Headers, path: str) -> str | None:
    """Return where the answer leads ("": nowhere) if a change was made.  A form that is shown again made none."""
    where = headers.get("location") or headers.get("hx-redirect") or ""
    if status in (201, 204, 303) or "hx-redirect" in headers or (status == 200 and path.startswith("/api/")):
        return where
    return None


def _write(scope: Scope, where: str) -> None:
    state: dict[str, Any] = scope["state"]
    endpoint = scope.get("endpoint")
    said = " ".join((getattr(endpoint, "__doc__", None) or scope["method"]).split())
    action = said.split(".  ")[0].split(". ")[0].rstrip(".")
    detail = state.get("audit_detail") or (where if where not in ("", scope["path"]) else "")
    with scope["app"].state.sessions() as db:
        db.add(AuditEntry(at=time.time(), user=state[_MARK], action=action[:200], path=scope["path"][:500],
                          detail=str(detail)[:500]))
        db.commit()
