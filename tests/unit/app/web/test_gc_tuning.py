"""Tests of the garbage collector's settings."""

from __future__ import annotations

import gc

from app.web.gc_tuning import rare_collections


def test_collections_are_rare_for_a_while_only() -> None:
    before = gc.get_threshold()
    with rare_collections():
        assert gc.get_threshold() == (100_000, 20, 100)
        assert gc.get_freeze_count() > 1000
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() < 1000
