"""Tests of a run's progress reports, and of the requests to stop it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae.errors import Cancelled, Interrupted
from sae.runs import progress
from sae.runs.folder import RunFolder, Status
from sae.runs.progress import Follower, Reporter


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Clock:
    """A clock that only the test advances."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def status_of(folder: RunFolder) -> Status:
    status = folder.status()
    assert status is not None
    return status


def test_rate_share_and_time_left(folder: RunFolder, clock: Clock) -> None:
    reporter = Reporter(folder, {"text": 1, "training": 3, "index": 4})
    reporter.begin("training", total=1000)
    for _ in range(10):
        clock.now += 1
        reporter.update(reporter.status.done + 50)
    status = status_of(folder)
    assert (status.phase, status.done, status.total, status.unit) == ("training", 500, 1000, "tokens")
    assert status.rate == pytest.approx(50)
    assert status.overall == pytest.approx((1 + 0.5 * 3) / 8)
    # Ten seconds of this phase are left, and the index takes 4/3 of the phase's twenty.
    assert status.eta_s == pytest.approx(10 + 20 * 4 / 3)
    assert status.pid == os.getpid()


def test_the_rate_is_measured_over_the_last_seconds(folder: RunFolder, clock: Clock) -> None:
    reporter = Reporter(folder, {"index": 1})
    reporter.begin("index", total=10_000)
    for speed in [1] * 30 + [100] * 12:
        clock.now += 1
        reporter.update(reporter.status.done + speed)
    assert status_of(folder).rate == pytest.approx(100)


def test_a_resumed_phase_counts_its_rate_from_where_it_began(folder: RunFolder, clock: Clock) -> None:
    reporter = Reporter(folder, {"training": 1})
    reporter.begin("training", total=1000, done=900)
    clock.now += 2
    reporter.update(920)
    assert status_of(folder).rate == pytest.approx(10)


def test_the_file_is_written_a_few_times_a_second_at_most(folder: RunFolder, clock: Clock) -> None:
    reporter = Reporter(folder, {"training": 1})
    reporter.begin("training", total=1000)
    for step in range(100):
        clock.now += 0.001
        reporter.update(step)
    assert status_of(folder).done == 0
    clock.now += 1
    reporter.update(100)
    assert status_of(folder).done == 100


def test_it_stops_at_the_next_call_after_a_request(folder: RunFolder) -> None:
    reporter = Reporter(folder, {"training": 1})
    reporter.begin("training", total=10)
    reporter.update(1)
    folder.request_cancel()
    with pytest.raises(Cancelled):
        reporter.update(2)
    folder.clear_cancel()
    reporter.check()
    reporter.catch_signals()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        reporter.check()
    with pytest.raises(Interrupted):
        reporter.update(3)


def test_the_end(folder: RunFolder) -> None:
    reporter = Reporter(folder, {"training": 1})
    reporter.begin("training", total=10, message="reading")
    reporter.row(loss=0.5)
    reporter.status.result = {"sae": "a/b"}
    reporter.finish("succeeded")
    status = status_of(folder)
    assert (status.state, status.overall, status.eta_s, status.message) == ("succeeded", 1.0, None, "")
    assert status.result == {"sae": "a/b"}
    assert status.finished is not None
    (row,) = folder.progress()
    assert (row["phase"], row["loss"]) == ("training", 0.5)
    reporter.finish("failed", "text: gone")
    assert status_of(folder).error == "text: gone"


def test_a_follower_writes_nothing_and_hears_its_own_signals_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create("train", {})
    follower = Follower(folder, {"training": 1.0})
    follower.begin("training", 10)
    folder.request_cancel()
    follower.update(5)
    follower.row(loss=1.0)
    follower.finish("succeeded")
    assert folder.status() is None
    assert not list(folder.progress())
    follower._on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted):
        follower.update(6)


def test_a_beat_does_not_stop_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create("train", {})
    reporter = Reporter(folder, {"training": 1.0})
    folder.request_cancel()
    reporter._written = 0.0
    before = folder.status()
    reporter.beat()
    after = folder.status()
    assert before is not None
    assert after is not None
    assert after.heartbeat > before.heartbeat
