"""The commands of the model worker.

Only the worker's process imports this module, and only once it listens, because it imports torch and the language
model's libraries.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from app.worker import protocol
from app.worker.cache import ModelCache
from app.worker.queue import Send
from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import pick_device
from sae.lm.conformance.opening import open_model
from sae.lm.row_model import RowModel
from sae.lm.slow_row_model import open_row_model
from sae.steering.ablation import ablate
from sae.steering.generation import Column, Run, TextGenerator
from sae.steering.inspection import inspect_text
from sae.steering.interventions import Steering, check_saes, prompt_ids
from sae.steering.measurement_requests import MAX_TEXT_TOKENS
from sae.steering.next_token import kl_S, next_tokens, perplexity, steered_logits
from sae.steering.output_score import output_scores
from sae.steering.request import SteerRequest
from sae.steering.text_measures import concept_share, repetition

EVENTS_PER_S = 10  # every event carries the full text, so more would cost without showing more


@dataclass(frozen=True)
class _Loaded:
    """A language model that is ready to generate text.  `pieces` are the bytes of every token, as Latin-1."""

    rows: RowModel
    generator: TextGenerator
    pieces: list[str]

    @property
    def special_ids(self) -> list[int]:
        return list(self.rows.lm.special_ids)

    @property
    def bytes(self) -> int:
        weights = self.rows.lm.bridge.original_model.parameters()
        total: int = sum(t.numel() * t.element_size() for t in weights) + self.rows.packed_bytes
        return total


class Engine:
    """The executor of the commands in `app.worker.protocol`.  Make it and use it on one thread only."""

    def __init__(self, *, threads: int, memory_bytes: int, device: str) -> None:
        # Use half of the cores: a training run may use the others, and threads that wait for a core cost more
        # than they gain, most of all in a small model.
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
        self._device = pick_device(device)
        self._cache = ModelCache(memory_bytes)
        self._writing: list[TextGenerator] = []

    def begin(self, message: protocol.Job, send: Send, cancelled: threading.Event) -> Iterator[None]:
        """Start a request (see `app.worker.queue.Serve`)."""
        work: Any = {
            "generate": self._generate, "sweep": self._sweep, "readout": self._read_out, "inspect": self._inspect,
            "ablate": self._ablate, "score": self._score, "warm": self._warm}[message.type]
        return work(message, send, cancelled)  # type: ignore[no-any-return]

    def step(self) -> None:
        for generator in self._writing:
            generator.step()
        self._writing = [generator for generator in self._writing if generator.n_texts]

    def reset(self) -> None:
        for generator in self._writing:
            generator.clear()
        self._writing = []

    def report(self, waiting: int, going: int) -> protocol.Report:
        return protocol.Report(
            loaded=self._cache.names, memory=self._cache.bytes,
            limit=self._cache.limit, waiting=waiting, going=going, pid=os.getpid(), device=str(self._device))

    # ---- texts

    def _generate(self, message: protocol.Generate, send: Send, cancelled: threading.Event) -> Iterator[None]:
        request = message.request
        model, saes, prompt = self._ready(request, message.folders, send)
        run = Run.of(request, prompt, saes, model.special_ids)
        started = time.monotonic()

        def texts() -> dict[str, protocol.Text]:
            return {c.name: _text(c.output, c.acts[len(prompt):], model.pieces, c.finish) for c in run.columns}

        def begun() -> None:
            send(protocol.Started(prompt=_text(prompt, run.prompt_acts, model.pieces)))

        yield from self._write(model, [run], send, cancelled, texts, begun)
        seconds = time.monotonic() - started
        yield  # texts that end in the same step are all complete before any of them is measured
        final = texts()
        if not cancelled.is_set():
            for column in run.columns:
                if not column.name.startswith("baseline"):
                    kl = yield from self._kl(model, run, column)
                    final[column.name] = final[column.name].model_copy(update={"kl": kl})
        send(protocol.Done(columns=final, tokens=sum(len(c.output) for c in run.columns),
                    stopped=any(c.finish is None for c in run.columns), seconds=seconds))

    def _sweep(self, message: protocol.Sweep, send: Send, cancelled: threading.Event) -> Iterator[None]:
        request = message.request
        model, saes, prompt = self._ready(request.request, message.folders, send)
        runs = [Run.of(cell, prompt, saes, model.special_ids) for cell in request.cells()]
        started = time.monotonic()

        def texts() -> dict[str, protocol.Text]:
            return {str(n): _text(run.columns[0].output, run.columns[0].acts[len(prompt):], model.pieces,
                                  run.columns[0].finish) for n, run in enumerate(runs)}

        def begun() -> None:
            send(protocol.Started(prompt=_text(prompt, runs[0].prompt_acts, model.pieces)))

        yield from self._write(model, runs, send, cancelled, texts, begun, keep_going=True)
        cells = []
        for strength, run, text in zip((None, *request.strengths), runs, texts().values(), strict=True):
            ids = [*prompt, *text.ids]
            surprise = None
            if text.ids:
                surprise = perplexity(model.rows.read(ids, whole=True).cpu(), ids, len(prompt))
                yield
            cells.append(protocol.Cell(strength=strength, text=text, concept=concept_share(text.ids, request.concept),
                                repetition=repetition(text.ids), perplexity=surprise,
                                error=str(run.error) if run.error else None))
        send(protocol.Swept(cells=cells, stopped=cancelled.is_set(), tokens=sum(len(c.text.ids) for c in cells),
                     seconds=time.monotonic() - started))

    def _write(
        self, model: _Loaded, runs: Sequence[Run], send: Send, cancelled: threading.Event, texts: Any, begun: Any,
        *, keep_going: bool = False,
    ) -> Iterator[None]:
        """Generate text until every run is finished or the request is cancelled.

        A run's error is raised, unless `keep_going` is set: then the other runs continue.
        """
        generator, last = model.generator, 0.0
        try:
            for run in runs:
                for _ in generator.join(run):
                    if cancelled.is_set():
                        return
                    yield
                if run is runs[0]:
                    begun()
                if generator not in self._writing:
                    self._writing.append(generator)
            while True:
                broken = [run.error for run in runs if run.error is not None]
                if broken and not keep_going:
                    raise broken[0]
                if cancelled.is_set() or not any(generator.holds(run) for run in runs):
                    return
                if time.monotonic() - last >= 1 / EVENTS_PER_S:
                    send(protocol.Progress(columns=texts()))
                    last = time.monotonic()
                yield
        finally:
            for run in runs:
                generator.leave(run)

    def _kl(self, model: _Loaded, run: Run, column: Column) -> Any:
        """Return KL(steered ‖ unsteered), in nats, at every generated token of a column, on the column's own text."""
        n, ids = len(run.prompt), [*run.prompt, *column.output]
        steering, _ = run.of_column(column.name.partition(".")[0])
        logits = []
        for steered in (True, False):
            logits.append(steered_logits(model.rows, ids, steering, n, steered=steered)[0][n - 1 : -1])
            yield
        return [round(value, 5) for value in kl_S(*logits).tolist()]

    # ---- measurements

    def _read_out(self, message: protocol.Readout, send: Send, _cancelled: threading.Event) -> Iterator[None]:
        request = message.request
        model, saes, prompt = self._ready(request.request, message.folders, send, room=not request.ids)
        ids = list(request.ids) or prompt
        _check_ids(ids, model.rows.lm.info.n_ctx, model.rows.lm.info.d_vocab)
        for position in request.positions:
            if position >= len(ids):
                raise UserError(f"positions: the text has {len(ids):,} tokens, 0 to {len(ids) - 1:,}; there is no "
                                f"{position:,}", "positions")
        run = request.request
        steering = Steering(run.interventions, saes, run.where, model.special_ids)
        n = request.prompt_tokens or len(prompt)
        baseline_SV, baseline_acts = steered_logits(model.rows, ids, steering, n, steered=False)
        yield
        steered_SV, steered_acts = steered_logits(model.rows, ids, steering, n, steered=True)
        tables = [
            protocol.NextTokens(position=i, rows=_next_tokens(
                next_tokens(baseline_SV[i], steered_SV[i], request.top), model.pieces))
            for i in request.positions]
        send(protocol.ReadOut(
            ids=ids, pieces=[model.pieces[i] for i in ids], tables=tables,
            kl=[round(value, 5) for value in kl_S(steered_SV, baseline_SV).tolist()],
            baseline_acts=_rounded(baseline_acts), steered_acts=_rounded(steered_acts)))

    def _inspect(self, message: protocol.Inspect, send: Send, cancelled: threading.Event) -> Iterator[None]:
        request, started = message.request, time.monotonic()
        model, saes = self._load(request.model, message.folders, send, request.saes)
        lm, special = model.rows.lm, set(model.special_ids)
        start = lm.start if any(saes[sae_id].reads_bos for sae_id in request.saes) else []
        markup = request.markup
        if markup is None:
            markup = any(saes[sae_id].reads_markup for sae_id in request.saes)
        texts = [list(ids) for ids in request.ids] or [
            [*start, *ids] for ids in lm.encode_many(request.texts, markup=markup)]
        for number, ids in enumerate(texts):
            _check_ids(ids, MAX_TEXT_TOKENS, lm.info.d_vocab, f"{'ids' if request.ids else 'texts'}.{number}")
        out = []
        for ids in texts:
            marks = [i in special for i in ids]
            readings, windows = inspect_text(
                model.rows, ids, [saes[sae_id] for sae_id in request.saes], marks, request.top, request.latents)
            out.append(protocol.InspectedText(
                ids=ids, pieces=[model.pieces[i] for i in ids], special=marks, windows=windows, saes=[
                    protocol.TextLatents(
                        sae=sae_id, l0=r.l0, pos=r.position, lat=r.latent, act=[round(a, 4) for a in r.act],
                        ranked=[protocol.TextLatent(**asdict(firing)) for firing in r.ranked])
                    for sae_id, r in zip(request.saes, readings, strict=True)]))
            if cancelled.is_set():
                break
            yield
        send(protocol.Inspected(texts=out, seconds=time.monotonic() - started))

    def _ablate(self, message: protocol.Ablate, send: Send, cancelled: threading.Event) -> Iterator[None]:
        request = message.request
        model, saes = self._load(request.model, message.folders, send, (request.sae,))
        steps = list[Any]()
        for step in ablate(
                model.rows, saes[request.sae], request.sae, request.latent, request.contexts,
                n_random=request.n_random, seed=request.seed):
            if cancelled.is_set():
                send(protocol.Failed(message="stopped"))
                return
            steps.append(step)
            send(protocol.Part(done=min(len(steps) / len(request.contexts), 1)))
            yield
        found = steps[-1]
        send(protocol.Ablated(
            latent=request.latent, firings=found.firings, effect=protocol.Effect(**asdict(found.effect)),
            random=[protocol.Effect(**asdict(effect)) for effect in found.random], sparsity=found.sparsity,
            random_sparsity=found.random_sparsity, tokens=_next_tokens(found.tokens, model.pieces)))

    def _score(self, message: protocol.Score, send: Send, cancelled: threading.Event) -> Iterator[None]:
        request = message.request
        model, saes = self._load(request.model, message.folders, send, (request.sae,))
        scores: list[protocol.LatentScore] = []
        for part in output_scores(
                model.rows, saes[request.sae], request.sae, request.latents, request.max_acts, request.prompts,
                strength=request.strength, top=request.top):
            scores += [protocol.LatentScore(**asdict(score)) for score in part]
            if cancelled.is_set():
                break
            send(protocol.Part(done=len(scores) / len(request.latents)))
            yield
        send(protocol.Scored(scores=scores, stopped=len(scores) < len(request.latents)))

    def _warm(self, message: protocol.Warm, send: Send, _cancelled: threading.Event) -> Iterator[None]:
        self._load(message.model, message.folders, send, tuple(message.folders))
        yield
        send(protocol.Ready())

    # ---- loading

    def _ready(
        self, request: SteerRequest, folders: Mapping[str, str], send: Send, *, room: bool = True,
    ) -> tuple[_Loaded, dict[str, Autoencoder], list[int]]:
        """Load the model, SAEs and prompt ids of a steering request.

        Raises UserError if the prompt, with `room` plus the output, does not fit into the model's context.
        """
        model, saes = self._load(request.model, folders, send, tuple(i.sae for i in request.interventions))
        if not room:
            sampling = request.sampling.model_copy(update={"length": 0})
            request = request.model_copy(update={"sampling": sampling})
        return model, saes, prompt_ids(model.rows.lm, request, saes.values())

    def _load(
        self, name: str, folders: Mapping[str, str], send: Send, wanted: Sequence[str]
    ) -> tuple[_Loaded, dict[str, Autoencoder]]:
        missing = [sae_id for sae_id in wanted if sae_id not in folders]
        if missing:
            raise UserError(f"sae: the request does not name the folder of {missing[0]}", "sae")

        def load() -> _Loaded:
            send(protocol.Loading(what=f"loading the language model {name}"))
            rows = open_row_model(open_model(name, self._device))
            return _Loaded(rows, TextGenerator(rows),
                           [piece.decode("latin-1") for piece in rows.lm.vocabulary()[0]])

        model: _Loaded = self._cache.get(("model", name), load, lambda model: model.bytes)
        saes = {sae_id: self._sae(sae_id, Path(folder), send) for sae_id, folder in folders.items()}
        check_saes(model.rows.lm, saes)
        return model, saes

    def _sae(self, sae_id: str, folder: Path, send: Send) -> Autoencoder:
        def load() -> Autoencoder:
            send(protocol.Loading(what=f"loading the SAE {sae_id}"))
            sae: Autoencoder = Autoencoder.load(folder, self._device)
            return sae

        try:
            changed = (folder / "sae.json").stat().st_mtime_ns  # one trained again under this name is loaded again
        except FileNotFoundError:
            raise UserError(f"sae: {sae_id} is no longer here: it was deleted or renamed", "sae") from None
        loaded: Autoencoder = self._cache.get(
            ("sae", sae_id, str(folder), changed), load,
            lambda sae: sum(t.numel() * t.element_size() for t in sae.tensors().values()))
        return loaded


def _check_ids(ids: Sequence[int], limit: int, d_vocab: int, field: str = "ids") -> None:
    if len(ids) > limit:
        raise UserError(f"{field}: the text has {len(ids):,} tokens with BOS; the limit is {limit:,}", field)
    if max(ids) >= d_vocab:
        raise UserError(f"{field}: the vocabulary has no token {max(ids):,}", field)


def _text(
    ids: Sequence[int], acts: Sequence[Sequence[float]], pieces: list[str], finish: str | None = None
) -> protocol.Text:
    # Without validation, which would cost as much as a forward pass: every event has the whole text.
    return protocol.Text.model_construct(
        ids=list(ids), pieces=[pieces[i] for i in ids], finish=finish, acts=_rounded(acts[: len(ids)]))


def _rounded(acts: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in acts]


def _next_tokens(rows: Sequence[Any], pieces: list[str]) -> list[protocol.NextToken]:
    return [protocol.NextToken(id=row.id, piece=pieces[row.id], baseline=row.baseline, steered=row.steered)
            for row in rows]
