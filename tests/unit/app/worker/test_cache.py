"""Tests of the model cache: it keeps the item in use, and never more than its limit otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.worker.cache import ModelCache


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 30))
def test_the_least_recently_used_goes_first(asked: list[int], limit: int) -> None:
    cache, loads, order = ModelCache(limit), [], []
    for key in asked:
        assert cache.get(key, lambda key=key: loads.append(key) or key, lambda key: key + 1) == key
        order = [*[k for k in order if k != key], key]
        kept = []
        for k in reversed(order):  # the newest that fit together, the last asked for in any case
            if kept and sum(i + 1 for i in kept) + k + 1 > limit:
                break
            kept.append(k)
        order = kept[::-1]
        assert [k for k in range(10) if k in cache] == sorted(order)


def test_a_cached_item_is_not_loaded_again() -> None:
    cache, loads = ModelCache(10), []
    for _ in range(3):
        cache.get("a", lambda: loads.append(1), lambda _: 1)
    assert len(loads) == 1
