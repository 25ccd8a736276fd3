"""A memory-bounded cache of loaded models and SAEs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class ModelCache:
    """A cache of loaded items by key, at most `limit` bytes in total.

    The least recently used items are dropped first.  The most recent one always stays, even if it alone exceeds the
    limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    @property
    def names(self) -> list[str]:
        """Return the names of the cached items, the least recently used first."""
        return [str(key[1]) if isinstance(key, tuple) else str(key) for key in self._items]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self._items.values())

    def get(self, key: Hashable, load: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Return the item under `key`, loading it if it is missing; `size` returns its number of bytes."""
        if key not in self._items:
            item = load()
            self._items[key] = (item, size(item))
        self._items.move_to_end(key)
        while len(self._items) > 1 and self.bytes > self.limit:
            self._items.popitem(last=False)
        return self._items[key][0]
