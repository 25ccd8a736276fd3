"""The budget of a run in tokens and money, at which it stops.  No torch.

A request reserves the most that it can use before it is sent, so that requests sent at the same time do not exceed the
budget together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

CHARACTERS_PER_TOKEN = 3.5  # for estimates, where no tokenizer is at hand; English text has about four


class BudgetSpent(Exception):
    """The next request could exceed the budget."""


def tokens_in(text: str) -> int:
    """Estimate the number of tokens of a text."""
    return round(len(text) / CHARACTERS_PER_TOKEN) + 1


@dataclass
class Budget:
    """Limits (0: none) and prices per million tokens, with what is spent and reserved so far."""

    max_tokens: int = 0
    max_money: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    _reserved: tuple[int, int] = (0, 0)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def money(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    @property
    def spent(self) -> float:
        """The money spent so far, in the unit of the prices."""
        return self.money(self.tokens_in, self.tokens_out)

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    def reserve(self, n_in: int, n_out: int) -> None:
        """Reserve the tokens of a request.  Raises BudgetSpent if they could exceed a limit."""
        with self._lock:
            held_in, held_out = self._reserved
            in_, out = self.tokens_in + held_in + n_in, self.tokens_out + held_out + n_out
            if self.max_tokens and in_ + out > self.max_tokens:
                raise BudgetSpent
            if self.max_money and self.money(in_, out) > self.max_money:
                raise BudgetSpent
            self._reserved = held_in + n_in, held_out + n_out

    def release(self, n_in: int, n_out: int) -> None:
        """Give back a reservation."""
        with self._lock:
            self._reserved = self._reserved[0] - n_in, self._reserved[1] - n_out

    def pay(self, n_in: int, n_out: int) -> None:
        """Add the tokens that a request used."""
        with self._lock:
            self.tokens_in += n_in
            self.tokens_out += n_out
