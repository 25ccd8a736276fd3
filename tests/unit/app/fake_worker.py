"""A model worker that answers at once with made-up numbers, or with what a test tells it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tokenizers import Tokenizer

from app.worker.protocol import Event, Inspect, Inspected, InspectedText, Loading, TextLatent, TextLatents
from sae.models import DEMO_PATH
from sae.tokens import piece_bytes


class FakeWorker:
    """`says` are the events of the next requests, in place of the usual answer; `asked` the messages that came.

    A `None` among the events waits until `go` is set.
    """

    def __init__(self) -> None:
        self.says: list[list[Event | None]] = []
        self.asked: list[Any] = []
        self.go = asyncio.Event()
        self.tokenizer = Tokenizer.from_file(str(DEMO_PATH / "tokenizer.json"))

    async def ask(self, message: Any, stop: asyncio.Event | None = None) -> AsyncIterator[Event]:
        self.asked.append(message)
        if self.says:
            for event in self.says.pop(0):
                if event is None:
                    await self.go.wait()
                else:
                    yield event
            return
        yield Loading(what="loading the language model demo")
        assert isinstance(message, Inspect)
        yield self.inspected(message)

    def inspected(self, message: Inspect) -> Inspected:
        """Latent i fires on every token whose id is a multiple of i + 2, latent 3 on all, BOS included."""
        texts = []
        for text in message.request.texts:
            ids = [0, *self.tokenizer.encode(text, add_special_tokens=False).ids]
            saes = [self._latents(sae, ids) for sae in message.request.saes]
            pieces = [piece_bytes(self.tokenizer.id_to_token(i), True).decode("latin-1") for i in ids]
            texts.append(InspectedText(ids=ids, pieces=pieces, special=[True, *[False] * (len(ids) - 1)], windows=[],
                                       saes=saes))
        return Inspected(texts=texts, seconds=0.01)

    def _latents(self, sae: str, ids: list[int]) -> TextLatents:
        shift = len(sae) % 3
        found = [(p, latent, 1.0 + (i % 7) + latent / 10) for p, i in enumerate(ids) for latent in range(30)
                 if i % (latent + 2 + shift) == 0 or latent == 3]
        found.sort(key=lambda row: (row[0], -row[2]))
        ranked = []
        for latent in sorted({latent for _, latent, _ in found}):
            rows = [(act, p) for p, other, act in found if other == latent and p > 0]
            if rows:
                top, peak = max(rows)
                ranked.append(TextLatent(latent=latent, max=top, sum=sum(a for a, _ in rows), peak=peak, n=len(rows)))
        return TextLatents(
            sae=sae, l0=[sum(p == row[0] for row in found) for p in range(len(ids))], pos=[row[0] for row in found],
            lat=[row[1] for row in found], act=[row[2] for row in found], ranked=ranked)
