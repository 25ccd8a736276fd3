"""The order in which waiting requests are served: the addresses that they come from take turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from starlette.types import Scope

Thing = TypeVar("Thing")


def address_of(scope: Scope) -> str:
    """Return the address that a request comes from, or "" if it is unknown."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class Turns(Generic[Thing]):
    """Things that are lent to one caller at a time, such as places or processes.  It is used on the event loop.

    Callers of one address are served in their order, and those of different addresses in turn, so that an address
    with a thousand requests delays another's by one of them.
    """

    def __init__(self, things: Iterable[Thing] = ()) -> None:
        self._free = list(things)
        self._waiting: dict[str, deque[asyncio.Future[Thing]]] = {}  # the address whose turn it is comes first

    async def borrow(self, address: str) -> Thing:
        """Return the thing that was given back last, or the next one whose turn is this address's."""
        if self._free:
            return self._free.pop()
        future: asyncio.Future[Thing] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was lent at the moment when its caller gave up
                self.give(future.result())
            raise

    def give(self, thing: Thing) -> None:
        """Give a thing to the caller whose turn it is, or keep it for the next one."""
        while self._waiting:
            address = next(iter(self._waiting))
            callers = self._waiting.pop(address)
            future = callers.popleft()
            if callers:
                self._waiting[address] = callers  # at the end
            if not future.done():
                future.set_result(thing)
                return
        self._free.append(thing)
