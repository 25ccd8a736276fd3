"""A fake model worker that answers at once with made-up numbers or with the events that a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from app.worker.protocol import (
    Ablate,
    Ablated,
    Cell,
    Done,
    Effect,
    Event,
    Generate,
    Inspect,
    Inspected,
    InspectedText,
    LatentScore,
    Loading,
    NextToken,
    NextTokens,
    Part,
    Progress,
    ReadOut,
    Readout,
    Ready,
    Score,
    Scored,
    Started,
    Sweep,
    Swept,
    Text,
    TextLatent,
    TextLatents,
)
from sae.lm.model_info import DEMO_PATH
from sae.lm.tokens import piece_bytes
from sae.steering.request import SteerRequest


class FakeWorker:
    """A fake model worker: `asked` are the messages that came, `says` the events of the next requests.

    A request without such events gets the usual answer.  A `None` among the events waits until `go` is set, or until
    the request is stopped.
    """

    def __init__(self) -> None:
        self.says: list[list[Event | None]] = []
        self.asked: list[Any] = []
        self.go = asyncio.Event()
        self.tokenizer = Tokenizer.from_file(str(DEMO_PATH / "tokenizer.json"))

    def condition(self) -> str:
        return "ok"

    async def ask(self, message: Any, stop: asyncio.Event | None = None) -> AsyncIterator[Event]:
        self.asked.append(message)
        if self.says:
            for event in self.says.pop(0):
                if event is None:
                    while not (self.go.is_set() or (stop and stop.is_set())):
                        await asyncio.sleep(0.005)
                else:
                    yield event
            return
        yield Loading(what="loading the language model demo")
        answers = {Inspect: self._inspect, Generate: self._generate, Sweep: self._sweep, Readout: self._readout,
                   Ablate: self._ablate, Score: self._score}
        answer = answers.get(type(message))
        events = answer(message) if answer else [Ready()]
        for event in events:
            yield event
            await asyncio.sleep(0.001)

    def text(self, ids: Sequence[int], n_acts: int = 0, **more: Any) -> Text:
        pieces = [piece_bytes(self.tokenizer.id_to_token(i), True).decode("latin-1") for i in ids]
        return Text(ids=list(ids), pieces=pieces, acts=[[float(i % 7)] * n_acts for i in ids] if n_acts else [], **more)

    def encode(self, text: str) -> list[int]:
        return [0, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    # ---- texts

    def _output(self, request: SteerRequest, column: str, sample: int) -> list[int]:
        """Return tokens that depend on the seed and, unless no intervention changes anything, on the column."""
        changed = any(i.strength for i in request.interventions) and column != "baseline"
        start = 300 + 17 * (request.sampling.seed + sample) + (1000 if changed else 0) + (column == "control") * 500
        return [start + 3 * n for n in range(request.sampling.length)]

    def _prompt(self, request: SteerRequest) -> list[int]:
        return self.encode(request.prompt or request.chat[-1].content)

    def _generate(self, message: Generate) -> list[Event]:
        request = message.request
        n, outputs = len(request.interventions), {}
        for key in list(request.keys()):
            column, _, sample = key.partition(".")
            outputs[key] = self._output(request, column, int(sample or 1) - 1)
        half = {key: self.text(ids[: len(ids) // 2], n) for key, ids in outputs.items()}
        final = {key: self.text(ids, n, finish="length", kl=[0.0 if key[:8] == "baseline" else 0.1 * (i % 5)
                                                             for i, _ in enumerate(ids)])
                 for key, ids in outputs.items()}
        return [Started(prompt=self.text(self._prompt(request), n)), Progress(columns=half),
                Done(columns=final, stopped=False, tokens=sum(map(len, outputs.values())), seconds=0.5)]

    def _sweep(self, message: Sweep) -> list[Event]:
        asked = message.request
        n, cells = len(asked.request.interventions), []
        for strength, request in zip([None, *asked.strengths], asked.cells(), strict=True):
            ids = self._output(request, "baseline" if strength is None else "steered", 0)
            far = abs(strength or 0.0)
            cells.append(Cell(strength=strength, text=self.text(ids, n, finish="length"), concept=min(far / 10, 1.0),
                              repetition=min(far / 12, 1.0), perplexity=4.0 * (1 + far)))
        half = {str(i): self.text(cell.text.ids[:3], n) for i, cell in enumerate(cells)}
        return [Started(prompt=self.text(self._prompt(asked.request), n)), Progress(columns=half),
                Swept(cells=cells, stopped=False, tokens=sum(len(c.text.ids) for c in cells), seconds=1.0)]

    def _readout(self, message: Readout) -> list[Event]:
        asked = message.request
        text = self.text(asked.ids)
        tables = []
        for position in asked.positions:
            ids = [*asked.ids[position + 1 : position + 2], *range(400, 409)]
            rows = [NextToken(id=i, piece=self.text([i]).pieces[0], baseline=0.5 / (n + 1), steered=0.3 / (n + 2))
                    for n, i in enumerate(ids)]
            tables.append(NextTokens(position=position, rows=rows))
        n = len(asked.request.interventions)
        acts = [[0.0] * n for _ in asked.ids]
        return [ReadOut(ids=list(asked.ids), pieces=text.pieces, kl=[0.25 for _ in asked.ids], tables=tables,
                        baseline_acts=acts, steered_acts=acts)]

    # ---- latents

    def _ablate(self, message: Ablate) -> list[Event]:
        n = len(message.request.contexts)
        effect = Effect(ce_at=[0.2] * n, kl_at=[0.3] * n, ce_after=[0.05] * n, kl_after=[0.06] * n)
        random = Effect(ce_at=[0.01] * n, kl_at=[0.02] * n, ce_after=[0.0] * n, kl_after=[0.01] * n)
        moved = [NextToken(id=400 + i, piece=self.text([400 + i]).pieces[0], baseline=0.4, steered=0.1)
                 for i in range(4)]
        return [Part(done=0.5), Ablated(
            latent=message.request.latent, firings=[3] * n, effect=effect, random=[random] * message.request.n_random,
            sparsity=0.02, random_sparsity=0.3, tokens=moved)]

    def _score(self, message: Score) -> list[Event]:
        scores = [LatentScore(latent=i, score=0.01 * i if top else None, tokens=[400, 401])
                  for i, top in zip(message.request.latents, message.request.max_acts, strict=True)]
        return [Part(done=0.5), Scored(scores=scores, stopped=False)]

    def _inspect(self, message: Inspect) -> list[Event]:
        """Let latent i fire on every token whose id is a multiple of i + 2, and latent 3 on all, including BOS."""
        texts = []
        for text in message.request.texts:
            ids = self.encode(text)
            saes = [self._latents(sae, ids) for sae in message.request.saes]
            texts.append(InspectedText(ids=ids, pieces=self.text(ids).pieces, special=[True, *[False] * (len(ids) - 1)],
                                       windows=[], saes=saes))
        return [Inspected(texts=texts, seconds=0.01)]

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
