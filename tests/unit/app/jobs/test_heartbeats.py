"""Tests of the age of heartbeats."""

import time

from app.jobs.heartbeats import Heartbeats


def test_silence_is_counted_by_this_clock_from_the_last_change() -> None:
    beats, far_in_the_future = Heartbeats(), time.time() + 1e6
    assert beats.silence("a", far_in_the_future) == 0
    time.sleep(0.02)
    assert 0.02 <= beats.silence("a", far_in_the_future) < 5
    assert beats.silence("a", far_in_the_future + 1) == 0
    time.sleep(0.01)
    beats.forget("a")
    assert beats.silence("a", far_in_the_future + 1) == 0
