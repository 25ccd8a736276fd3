"""Tests of the HTML that all followers of a run share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from app.pages.steer import shared_events
from app.worker.steering_runs import LiveRun


class View(NamedTuple):
    """The view of a run."""

    version: int | None
    by: int | None

    @property
    def written(self) -> int:
        return self.version or 0


@dataclass
class Followed:
    """A run whose view is its version and the strength."""

    live: LiveRun | None

    def view(self, by: int | None) -> Any:
        return View(self.live.version if self.live else None, by)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of the views that were rendered."""
    done: list[Any] = []

    def render(view: Any, names: Any) -> list[tuple[str, str]]:
        done.append(view)
        return [("text", str(tuple(view)))]

    monkeypatch.setattr(shared_events, "run_events", render)
    return done


def test_followers_of_a_run_share_what_is_rendered_until_it_changes(rendered: list[Any]) -> None:
    async def follow() -> None:
        live = LiveRun("steer-1")
        one, other = Followed(live), Followed(live)

        async def parts(by: int | None = None) -> list[Any]:
            asked = (shared_events.shared_events(found, by, {}) for found in (one, other) * 3)  # type: ignore[arg-type]
            return [[part[:2] for part in got[1]] for got in await asyncio.gather(*asked)]

        assert await parts() == [[("text", "(0, None)")]] * 6
        assert rendered == [(0, None)]
        live.notify()
        assert await parts() == [[("text", "(1, None)")]] * 6
        assert await parts(2) == [[("text", "(1, 2)")]] * 6
        assert rendered == [(0, None), (1, None), (1, 2)]

    asyncio.run(follow())


def test_a_follower_who_leaves_does_not_take_it_from_the_others(rendered: list[Any]) -> None:
    async def follow() -> None:
        found: Any = Followed(LiveRun("steer-1"))
        first = asyncio.create_task(shared_events.shared_events(found, None, {}))
        second = asyncio.create_task(shared_events.shared_events(found, None, {}))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)[1] == [("text", "(0, None)", b"event: text\ndata: (0, None)\nid: 0\n\n")]

    asyncio.run(follow())
    assert rendered == [(0, None)]


def test_what_is_kept_of_a_run_is_bounded(rendered: list[Any]) -> None:
    async def follow() -> None:
        found: Any = Followed(LiveRun("steer-1"))
        for by in range(50):
            await shared_events.shared_events(found, by, {})
        assert len(shared_events._rendered[found.live]) <= 8

    asyncio.run(follow())


def test_a_finished_run_is_rendered_for_each(rendered: list[Any]) -> None:
    found: Any = Followed(None)
    assert asyncio.run(shared_events.shared_events(found, None, {}))[1][0][:2] == ("text", "(None, None)")
