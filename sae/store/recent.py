"""A bounded memory of results that were made lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The last `most` results by their keys.  Many threads may use it at once."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._items: OrderedDict[Hashable, T] = OrderedDict()  # the least recently used first

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of `key`, which `make` makes if it is not remembered."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        made = make()  # without the lock: two threads may make the same result
        with self._lock:
            self._items[key] = made
            while len(self._items) > self._most:
                self._items.popitem(last=False)
        return made
