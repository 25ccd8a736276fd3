"""A local instruct model in Hugging Face layout, which answers in the run's own process."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch

from sae.explain.budget import Budget
from sae.explain.chat import N_OPTIONS, Answer, ChatModel
from sae.explain.checks import check_instruct_model
from sae.explain.request_cache import RequestCache
from sae.explain.templates import Messages
from sae.lm.bridge import LanguageModel


class LocalModel(ChatModel):
    """A language model that takes chats.  It decodes greedily, one answer at a time."""

    def __init__(
        self, lm: LanguageModel, cache: RequestCache, budget: Budget, check: Callable[[], None] = lambda: None,
    ) -> None:
        """Wrap a language model.  `check` is called before each token; it raises to stop the run."""
        super().__init__(lm.info.name, cache, budget)
        self._lm, self._lock, self._check = lm, Lock(), check
        stops = {lm.tokenizer.eos_token_id, *_end_tokens(lm)}
        self._stops = {int(stop) for stop in stops if stop is not None}

    @classmethod
    def load(
        cls, folder: str, device: str, cache: RequestCache, budget: Budget, check: Callable[[], None] = lambda: None,
    ) -> LocalModel:
        """Load the model in `folder`.  Raises UserError (field `model`) if it is not one that takes chats."""
        check_instruct_model(folder)
        return cls(LanguageModel.load(folder, device), cache, budget, check)

    @torch.no_grad()
    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        ids = self._lm.chat_ids(messages)
        room = self._lm.info.n_ctx - len(ids)
        if room < 1:  # a text that the model cannot read has no answer; it counts as one that cannot be parsed
            return Answer("", 0, 0)
        out: list[int] = []
        options: list[tuple[str, dict[str, float]]] = []
        with self._lock:
            new, cache = torch.tensor([ids], device=self._lm.device), None
            while len(out) < min(max_tokens, room):
                self._check()
                logits, cache = self._lm.step(new, cache)
                token = int(logits[0, -1].argmax())
                if token in self._stops:
                    break
                out.append(token)
                if logprobs:
                    options.append((self._text([token]), self._alternatives(logits[0, -1])))
                new = torch.tensor([[token]], device=self._lm.device)
        return Answer(self._text(out), len(ids), len(out), options if logprobs else None)

    def _alternatives(self, logits_V: torch.Tensor) -> dict[str, float]:
        p, ids = logits_V.softmax(0).topk(min(N_OPTIONS, len(logits_V)))
        found: dict[str, float] = {}
        for value, token in zip(p.tolist(), ids.tolist(), strict=True):
            text = self._text([token])
            found[text] = found.get(text, 0.0) + value
        return found

    def _text(self, ids: list[int]) -> str:
        return str(self._lm.tokenizer.decode(ids))


def _end_tokens(lm: LanguageModel) -> list[Any]:
    """Return the end tokens of the model's own generation settings: chat models often have one for a turn."""
    ends = getattr(getattr(lm.bridge.original_model, "generation_config", None), "eos_token_id", None)
    return ends if isinstance(ends, list) else [ends]
