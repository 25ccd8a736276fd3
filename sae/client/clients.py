"""The two clients: one that waits, one that is awaited.  `sae.client.requests` has what they send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx

from sae.client import requests
from sae.client.people import AsyncPeopleCalls, PeopleCalls
from sae.client.records import (
    ActiveLatent,
    FoundLatent,
    Label,
    Latent,
    LatentTable,
    Model,
    Run,
    Sae,
    SteerEvent,
    SteeringResult,
    TextActivations,
)
from sae.client.requests import Call, Flow

T = TypeVar("T")
Rank = Literal["max", "sum", "surprise"]
ADDRESS = "http://127.0.0.1:8000"
_TIMEOUT_S = 120.0  # a model that is not loaded yet takes a while


class _Base:
    """The address, and the settings of httpx."""

    def __init__(self, url: str = ADDRESS, token: str | None = None, timeout: float = _TIMEOUT_S) -> None:
        """Take the server's address, and a token from your account's page if something needs one."""
        self.url = url.rstrip("/")
        headers = {"Accept": "application/json", "User-Agent": "saescope-client"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        self._settings: dict[str, Any] = {"base_url": self.url, "headers": headers, "timeout": timeout}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


class Client(_Base, PeopleCalls):
    """A client that waits for each answer.  Raises SaescopeError for what the server refuses.

    `sae` is always an id such as `demo/2-res-batchtopk-4k`.  Steering takes latents as dictionaries with `sae`,
    `latent`, and on request `mode` (add, clamp, scale, ablate, remove) and its number (`strength`, `target`, `factor`);
    `settings` are `length`, `temperature`, `top_p`, `top_k`, `seed`, `samples`, `stop`, `positions`, `start`,
    `special`, `control`, `repetition_penalty`, `markup` and `sweep_of`.
    """

    def __init__(self, url: str = ADDRESS, token: str | None = None, timeout: float = _TIMEOUT_S) -> None:
        super().__init__(url, token, timeout)
        self._http = httpx.Client(**self._settings)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, flow: Flow[T]) -> T:
        found: Any = None
        try:
            while True:
                call: Call = flow.send(found)
                got = self._http.request(call.method, call.path, params=call.params, json=call.json)
                found = requests.answer(got.status_code, got.content, got.headers)
        except StopIteration as end:
            value: T = end.value
            return value

    def models(self) -> list[Model]:
        """Return the language models that have SAEs."""
        return self._send(requests.models())

    def saes(self) -> list[Sae]:
        """Return the SAEs, newest first."""
        return self._send(requests.saes())

    def sae(self, sae: str) -> Sae:
        """Return one SAE."""
        return self._send(requests.sae(sae))

    def search(self, text: str, sae: str | None = None, limit: int = 20) -> list[FoundLatent]:
        """Return the latents that fit a text, best first, of one SAE or of all."""
        return self._send(requests.search(text, sae, limit))

    def search_text(
        self, text: str, sae: str | None = None, *, model: str | None = None, rank: Rank = "max", dense: bool = False,
        top: int = 20,
    ) -> list[ActiveLatent]:
        """Return the latents active on a text, best first, of one SAE or of all SAEs of a model."""
        return self._send(requests.search_text(text, sae, model, rank, dense, top))

    def latent(self, sae: str, latent: int) -> Latent:
        """Return a latent with its contexts and its label."""
        return self._send(requests.latent(self.url, sae, latent))

    def latents(self, sae: str, limit: int | None = 50, **query: Any) -> LatentTable:
        """Return rows of the latent table (None: all); `query` has `sort`, `dir`, `flag`, `token` and so on."""
        return self._send(requests.table(sae, limit, query))

    def labels(self, sae: str) -> list[Label]:
        """Return every label of an SAE."""
        return self._send(requests.labels(sae))

    def label(self, sae: str, latent: int) -> Label:
        """Return a latent's label."""
        return self._send(requests.label(sae, latent))

    def write_label(
        self, sae: str, latent: int, text: str | None = None, *, note: str | None = None,
        tags: Sequence[str] | None = None, starred: bool | None = None, version: int | None = None,
    ) -> Label:
        """Change a label; None leaves a part unchanged.  Raises SaescopeError 409 if `version` was replaced."""
        return self._send(requests.write_label(sae, latent, {
            "text": text, "note": note, "tags": tags, "starred": starred, "version": version}))

    def activations(
        self, sae: str, texts: str | Sequence[str], *, latents: Sequence[int] = (), top: int = 20, rank: Rank = "max",
        dense: bool = False,
    ) -> list[TextActivations]:
        """Return the latents that fire on each text; `latents` asks for these alone."""
        listed = [texts] if isinstance(texts, str) else texts
        return self._send(requests.activations(sae, listed, latents, top, rank, dense))

    def steer(
        self, latents: Sequence[Mapping[str, Any]], prompt: str = "", *, chat: Sequence[Mapping[str, str]] = (),
        sweep: Sequence[float] | None = None, **settings: Any,
    ) -> SteeringResult:
        """Steer and wait for the texts.  `sweep` writes one for each strength; an empty one lets the server choose."""
        return self._send(requests.steer(self.url, requests.steer_body(latents, prompt, chat, sweep, settings)))

    def steer_events(
        self, latents: Sequence[Mapping[str, Any]], prompt: str = "", *, chat: Sequence[Mapping[str, str]] = (),
        sweep: Sequence[float] | None = None, **settings: Any,
    ) -> Iterator[SteerEvent | SteeringResult]:
        """Steer and yield the texts while they grow, and at the end the result."""
        body = requests.steer_body(latents, prompt, chat, sweep, settings)
        run = self._send(requests.start(self.url, body))
        reader = requests.EventReader(self.url)
        with self._http.stream("GET", requests.events_path(run.id), headers={"Accept": "text/event-stream"}) as got:
            if got.status_code != 200:
                requests.answer(got.status_code, got.read(), got.headers)
            for line in got.iter_lines():
                yield from reader.take(line)

    def steering(self, run_id: str, wait: float = 0.0) -> SteeringResult:
        """Return a steering run, after at most `wait` seconds if it has not ended."""
        return self._send(requests.steering(self.url, run_id, wait))

    def stop_steering(self, run_id: str) -> SteeringResult:
        """Stop a steering run."""
        return self._send(requests.stop(self.url, run_id))

    def runs(self, limit: int = 100) -> list[Run]:
        """Return the latest runs, newest first."""
        return self._send(requests.runs(limit))

    def run(self, run_id: str) -> Run:
        """Return one run."""
        return self._send(requests.run(run_id))

    def start_run(self, kind: str, **spec: Any) -> Run:
        """Queue a run: train, sweep, index, evaluate, import or compare, with its settings."""
        return self._send(requests.start_run(kind, spec))

    def cancel_run(self, run_id: str) -> Run:
        """Stop a run at its next safe point."""
        return self._send(requests.cancel_run(run_id))


class AsyncClient(_Base, AsyncPeopleCalls):
    """A client whose methods are awaited; they are `Client`'s."""

    def __init__(self, url: str = ADDRESS, token: str | None = None, timeout: float = _TIMEOUT_S) -> None:
        super().__init__(url, token, timeout)
        self._http = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, flow: Flow[T]) -> T:
        found: Any = None
        while True:
            try:
                call: Call = flow.send(found)
            except StopIteration as end:
                value: T = end.value
                return value
            got = await self._http.request(call.method, call.path, params=call.params, json=call.json)
            found = requests.answer(got.status_code, got.content, got.headers)

    async def models(self) -> list[Model]:
        """Return the language models that have SAEs."""
        return await self._send(requests.models())

    async def saes(self) -> list[Sae]:
        """Return the SAEs, newest first."""
        return await self._send(requests.saes())

    async def sae(self, sae: str) -> Sae:
        """Return one SAE."""
        return await self._send(requests.sae(sae))

    async def search(self, text: str, sae: str | None = None, limit: int = 20) -> list[FoundLatent]:
        """Return the latents that fit a text, best first, of one SAE or of all."""
        return await self._send(requests.search(text, sae, limit))

    async def search_text(
        self, text: str, sae: str | None = None, *, model: str | None = None, rank: Rank = "max", dense: bool = False,
        top: int = 20,
    ) -> list[ActiveLatent]:
        """Return the latents active on a text, best first, of one SAE or of all SAEs of a model."""
        return await self._send(requests.search_text(text, sae, model, rank, dense, top))

    async def latent(self, sae: str, latent: int) -> Latent:
        """Return a latent with its contexts and its label."""
        return await self._send(requests.latent(self.url, sae, latent))

    async def latents(self, sae: str, limit: int | None = 50, **query: Any) -> LatentTable:
        """Return rows of the latent table (None: all); `query` has `sort`, `dir`, `flag`, `token` and so on."""
        return await self._send(requests.table(sae, limit, query))

    async def labels(self, sae: str) -> list[Label]:
        """Return every label of an SAE."""
        return await self._send(requests.labels(sae))

    async def label(self, sae: str, latent: int) -> Label:
        """Return a latent's label."""
        return await self._send(requests.label(sae, latent))

    async def write_label(
        self, sae: str, latent: int, text: str | None = None, *, note: str | None = None,
        tags: Sequence[str] | None = None, starred: bool | None = None, version: int | None = None,
    ) -> Label:
        """Change a label; None leaves a part unchanged.  Raises SaescopeError 409 if `version` was replaced."""
        return await self._send(requests.write_label(sae, latent, {
            "text": text, "note": note, "tags": tags, "starred": starred, "version": version}))

    async def activations(
        self, sae: str, texts: str | Sequence[str], *, latents: Sequence[int] = (), top: int = 20, rank: Rank = "max",
        dense: bool = False,
    ) -> list[TextActivations]:
        """Return the latents that fire on each text; `latents` asks for these alone."""
        listed = [texts] if isinstance(texts, str) else texts
        return await self._send(requests.activations(sae, listed, latents, top, rank, dense))

    async def steer(
        self, latents: Sequence[Mapping[str, Any]], prompt: str = "", *, chat: Sequence[Mapping[str, str]] = (),
        sweep: Sequence[float] | None = None, **settings: Any,
    ) -> SteeringResult:
        """Steer and wait for the texts.  `sweep` writes one for each strength; an empty one lets the server choose."""
        return await self._send(requests.steer(self.url, requests.steer_body(latents, prompt, chat, sweep, settings)))

    async def steer_events(
        self, latents: Sequence[Mapping[str, Any]], prompt: str = "", *, chat: Sequence[Mapping[str, str]] = (),
        sweep: Sequence[float] | None = None, **settings: Any,
    ) -> AsyncIterator[SteerEvent | SteeringResult]:
        """Steer and yield the texts while they grow, and at the end the result."""
        body = requests.steer_body(latents, prompt, chat, sweep, settings)
        run = await self._send(requests.start(self.url, body))
        reader = requests.EventReader(self.url)
        accept = {"Accept": "text/event-stream"}
        async with self._http.stream("GET", requests.events_path(run.id), headers=accept) as got:
            if got.status_code != 200:
                requests.answer(got.status_code, await got.aread(), got.headers)
            async for line in got.aiter_lines():
                for event in reader.take(line):
                    yield event

    async def steering(self, run_id: str, wait: float = 0.0) -> SteeringResult:
        """Return a steering run, after at most `wait` seconds if it has not ended."""
        return await self._send(requests.steering(self.url, run_id, wait))

    async def stop_steering(self, run_id: str) -> SteeringResult:
        """Stop a steering run."""
        return await self._send(requests.stop(self.url, run_id))

    async def runs(self, limit: int = 100) -> list[Run]:
        """Return the latest runs, newest first."""
        return await self._send(requests.runs(limit))

    async def run(self, run_id: str) -> Run:
        """Return one run."""
        return await self._send(requests.run(run_id))

    async def start_run(self, kind: str, **spec: Any) -> Run:
        """Queue a run: train, sweep, index, evaluate, import or compare, with its settings."""
        return await self._send(requests.start_run(kind, spec))

    async def cancel_run(self, run_id: str) -> Run:
        """Stop a run at its next safe point."""
        return await self._send(requests.cancel_run(run_id))
