"""Models that answer chat messages: the part that an endpoint and a local model share.  No torch.

Every request goes through the run's cache and its budget.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sae.explain.answers import Unparsable
from sae.explain.budget import Budget, tokens_in
from sae.explain.request_cache import RequestCache, key_of
from sae.explain.templates import Messages, Template

T = TypeVar("T")
N_OPTIONS = 20  # alternatives asked for at each token of an answer with logprobs


class RequestRefused(Exception):
    """A request that the model does not take, such as a text that is too long for it."""


@dataclass(frozen=True)
class Answer:
    """An answer's text and the tokens it took.

    `options` has, for every token of the answer, the token's text and the probabilities of the alternatives by their
    text; None if the model does not say.  `guessed` marks token counts that the endpoint did not report.
    """

    text: str
    tokens_in: int
    tokens_out: int
    options: list[tuple[str, dict[str, float]]] | None = None
    guessed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out,
                "options": self.options, "guessed": self.guessed}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Answer:
        options = row.get("options")
        return cls(row["text"], row["tokens_in"], row["tokens_out"],
                   None if options is None else [(text, dict(found)) for text, found in options],
                   bool(row.get("guessed")))


class ChatModel(ABC):
    """A model that answers messages, with a cache of its answers and a budget."""

    def __init__(self, name: str, cache: RequestCache | None, budget: Budget) -> None:
        """Make a model; without a cache every request is sent."""
        self.name, self.cache, self.budget = name, cache, budget

    def ask(self, messages: Messages, max_tokens: int, logprobs: bool = False) -> Answer:
        """Return the answer to messages, from the cache if it was given before.

        Raises BudgetSpent before a request that could exceed the budget.
        """
        request = {"model": self.name, "messages": messages, "max_tokens": max_tokens, "temperature": 0,
                   "logprobs": logprobs}
        key = key_of(request)
        if self.cache is not None and (known := self.cache.get(key)) is not None:
            return Answer.from_json(known)
        n_in = sum(tokens_in(message["content"]) for message in messages)
        self.budget.reserve(n_in, max_tokens)
        try:
            answer = self._answer(messages, max_tokens, logprobs)
            self.budget.pay(answer.tokens_in, answer.tokens_out)
        finally:
            self.budget.release(n_in, max_tokens)
        if self.cache is not None:
            self.cache.put(key, request, answer.to_json())
        return answer

    @abstractmethod
    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        """Compute or fetch the answer."""


def ask_for(
    model: ChatModel, messages: Messages, parse: Callable[[str], T], retry: Template, max_tokens: int,
    logprobs: bool = False,
) -> tuple[T, Answer]:
    """Return what `parse` finds in the answer, and the answer.

    An answer that cannot be parsed is sent back once with the reason.  Raises Unparsable if the second cannot be parsed
    either.
    """
    answer = model.ask(messages, max_tokens, logprobs)
    try:
        return parse(answer.text), answer
    except Unparsable as fault:
        more = [*messages, {"role": "assistant", "content": answer.text or "(empty)"}, *retry.fill(fault=fault)]
        answer = model.ask(more, max_tokens, logprobs)
        return parse(answer.text), answer


def expected_values(answer: Answer, n: int, values: Sequence[int]) -> list[float] | None:
    """Return the expected value of each of `n` numbers in an answer, over the probabilities of `values`.

    Returns None if the model gives no probabilities, or if its tokens do not show one number at a time.
    """
    if answer.options is None:
        return None
    allowed = {str(value) for value in values}
    at = [options for text, options in answer.options if text.strip() in allowed]
    if len(at) < n:
        return None
    out = []
    for options in at[-n:]:  # a chain of thought may contain numbers, too
        found = [(int(text), p) for text, p in ((t.strip(), p) for t, p in options.items()) if text in allowed]
        total = sum(p for _, p in found)
        if total <= 0:
            return None
        out.append(sum(value * p for value, p in found) / total)
    return out


def probability(logprob: float) -> float:
    """Return the probability of a logarithm, without overflow for a careless endpoint."""
    return math.exp(min(0.0, max(-100.0, logprob)))
