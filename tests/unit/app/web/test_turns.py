"""Tests of the order in which waiting callers are served."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.turns import Turns, address_of


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_addresses_take_turns_and_each_keeps_its_order(asked: list[str]) -> None:
    async def go() -> list[tuple[str, int]]:
        turns, served = Turns([None]), list[tuple[str, int]]()
        await turns.borrow("")  # so that all have to wait

        async def work(address: str, number: int) -> None:
            await turns.borrow(address)
            served.append((address, number))
            turns.give(None)

        tasks = [asyncio.create_task(work(address, number)) for number, address in enumerate(asked)]
        await asyncio.sleep(0)
        turns.give(None)
        await asyncio.gather(*tasks)
        return served

    served = asyncio.run(go())
    expected = []
    waiting = {address: [n for n, other in enumerate(asked) if other == address] for address in dict.fromkeys(asked)}
    while waiting:
        for address in list(waiting):
            expected.append((address, waiting[address].pop(0)))
            if not waiting[address]:
                del waiting[address]
    assert served == expected


def test_what_was_given_back_last_is_lent_first() -> None:
    async def go() -> None:
        turns = Turns(["cold", "warm"])
        assert await turns.borrow("a") == "warm"
        assert await turns.borrow("a") == "cold"
        turns.give("warm")
        turns.give("cold")
        assert await turns.borrow("b") == "cold"

    asyncio.run(go())


@pytest.mark.parametrize("late", [False, True])
def test_a_caller_that_gives_up_takes_nothing_with_it(late: bool) -> None:
    async def go() -> None:
        turns = Turns(["thing"])
        await turns.borrow("a")
        waiting = asyncio.create_task(turns.borrow("b"))
        await asyncio.sleep(0)
        if late:
            turns.give("thing")  # it is lent to the caller, which is cancelled before it runs again
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if not late:
            turns.give("thing")
        assert await asyncio.wait_for(turns.borrow("c"), 1) == "thing"

    asyncio.run(go())


def test_a_request_without_an_address_has_an_empty_one() -> None:
    assert address_of({"type": "http", "client": ("10.0.0.1", 4)}) == "10.0.0.1"
    assert address_of({"type": "http", "client": None}) == address_of({"type": "http"}) == ""
