"""The HTML of an active run's changes, rendered once for all pages that follow the run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool

from app.pages.steer.result import Found, run_events
from app.pages.steer.run_view import RunView
from app.worker.steering_runs import LiveRun

Events = tuple[RunView, list[tuple[str, str]]]

_VIEWS = 8  # of one run that are kept: addresses choose the strength that is shown
_rendered: WeakKeyDictionary[LiveRun, dict[int | None, tuple[int, asyncio.Task[Events]]]] = WeakKeyDictionary()


async def shared_events(found: Found, by: int | None, names: Mapping[str, str]) -> Events:
    """Return the run as it is now and its parts as HTML; `by` and `names` are as in `Found.view` and `run_events`."""
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
    return run, await run_in_threadpool(run_events, run, names)
