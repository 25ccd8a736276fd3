"""The events of an active run, rendered and encoded once for all pages that follow the run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from app.pages.steer.result import Found, run_events
from app.pages.steer.run_view import RunView
from app.worker.steering_runs import LiveRun

Events = tuple[RunView, list[tuple[str, str, bytes]]]  # the run; name, HTML and encoded event of each part

_VIEWS = 8  # of one run that are kept: addresses choose the strength that is shown
_rendered: WeakKeyDictionary[LiveRun, dict[int | None, tuple[int, asyncio.Task[Events]]]] = WeakKeyDictionary()


async def shared_events(found: Found, by: int | None, names: Mapping[str, str]) -> Events:
    """Return the run as it is now and its parts; `by` and `names` are as in `Found.view` and `run_events`."""
    live = found.live
    if live is None:
        return await _render(found, by, names)
    known = _rendered.setdefault(live, {})
    version, task = known.get(by, (-1, None))
    if task is None or version != live.version:
        if len(known) >= _VIEWS:
            known.clear()
        task = asyncio.create_task(_render(found, by, names))
        known[by] = (live.version, task)
    return await asyncio.shield(task)  # others wait for it, too


async def _render(found: Found, by: int | None, names: Mapping[str, str]) -> Events:
    run = found.view(by)

    def parts() -> list[tuple[str, str, bytes]]:
        return [(name, html, format_sse_event(event=name, id=f"{run.written}", data_str=html))
                for name, html in run_events(run, names)]

    return run, await run_in_threadpool(parts)
