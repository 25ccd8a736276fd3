"""A client of OpenAI's chat completions, which vLLM, llama.cpp, Ollama and hosted services speak.  No torch.

Endpoints differ.  Some reject `temperature` or want `max_completion_tokens`; the client learns that from the first
refusal.  Some report no usage or no logprobs.  What fails for a moment (429, 5xx, a timeout, a truncated answer) is
repeated with growing pauses.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

import httpx

from sae.errors import UserError
from sae.explain.budget import Budget, tokens_in
from sae.explain.chat import N_OPTIONS, Answer, ChatModel, RequestRefused, probability
from sae.explain.endpoint_settings import KEY, Endpoint
from sae.explain.request_cache import RequestCache
from sae.explain.templates import Messages

FOR_A_MOMENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_PAUSE_S = 60.0
PATH = "/chat/completions"
MAX_BYTES = 10_000_000
# A parameter that an endpoint may refuse: the words in its refusal, and what is sent instead.
_INSTEAD: dict[str, dict[str, str]] = {
    "max_tokens": {"max_tokens": "max_completion_tokens"}, "temperature": {"temperature": ""},
    "logprobs": {"logprobs": "", "top_logprobs": ""}}


class EndpointClient(ChatModel):
    """A model behind an endpoint.  It may be used by many threads at once."""

    def __init__(
        self, endpoint: Endpoint, cache: RequestCache | None, budget: Budget, *, timeout_s: float = 60,
        retries: int = 6, pause_s: float = 0.5, check: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a client.  `check` is called before each request and while it pauses; it raises to stop the run."""
        super().__init__(endpoint.model, cache, budget)
        self._endpoint, self._timeout_s, self._retries, self._pause_s = endpoint, timeout_s, retries, pause_s
        self._check = check
        self._refused: set[str] = set()  # parameters that this endpoint does not take
        self._lock = Lock()
        self.n_requests = self.n_repeated = 0
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._http = httpx.Client(headers=headers, timeout=timeout_s, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def models(self) -> list[str]:
        """Return the names of the endpoint's models.  Raises UserError if it cannot be reached."""
        content = self._repeated("GET", "/models", None)
        rows = content.get("data")
        return [str(row.get("id")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def _answer(self, messages: Messages, max_tokens: int, logprobs: bool) -> Answer:
        while True:
            body = self._body(messages, max_tokens, logprobs)
            try:
                return self._read(self._repeated("POST", PATH, body), messages)
            except RequestRefused as refusal:
                if not self._learn(refusal, body):
                    raise

    def _body(self, messages: Messages, max_tokens: int, logprobs: bool) -> dict[str, Any]:
        """Return the request without the parameters that the endpoint is known to refuse."""
        body: dict[str, Any] = {"model": self.name, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": N_OPTIONS}
        for parameter in set(self._refused):
            for name, instead in _INSTEAD[parameter].items():
                if name in body:
                    value = body.pop(name)
                    body |= {instead: value} if instead else {}
        return body

    def _learn(self, refusal: RequestRefused, body: dict[str, Any]) -> bool:
        """Remember the parameter of `body` that a refusal names; return whether it names a new one."""
        said = str(refusal)
        new = next((name for name in _INSTEAD if name in said and name not in self._refused and name in body), None)
        if new is not None:
            self._refused.add(new)
        return new is not None

    def _read(self, content: dict[str, Any], messages: Messages) -> Answer:
        """Return the answer in a response.  An answer without a text counts as an empty one, which nobody can parse."""
        choices = content.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        text = self._endpoint.without_key(text) if isinstance(text, str) else ""
        usage = content.get("usage")
        n_in, n_out = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        return Answer(
            text, tokens_in("".join(m["content"] for m in messages)) if n_in is None else n_in,
            tokens_in(text) if n_out is None else n_out, _options(choice.get("logprobs")),
            guessed=n_in is None or n_out is None)

    def _repeated(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request until it succeeds.  Raises UserError after the last attempt, RequestRefused for status 400."""
        for attempt in range(self._retries + 1):
            self._check()
            pause: float | None = None
            try:
                status, headers, text = self._send(method, path, body)
            except (httpx.TransportError, httpx.DecodingError, _TooSlow) as error:
                fault = self._endpoint.without_key(f"{type(error).__name__.lstrip('_')}: {error}")
            else:
                if status == 200:
                    try:
                        content = json.loads(text)
                        if isinstance(content, dict):
                            return content
                        fault = "its response is no JSON object"
                    except ValueError:
                        fault = "its response is broken JSON"
                elif status in FOR_A_MOMENT:
                    fault, pause = f"status {status}", asked_pause(headers)
                else:
                    raise self._final(status, headers, text)
            if attempt < self._retries:
                with self._lock:
                    self.n_repeated += 1
                own = min(_MAX_PAUSE_S, self._pause_s * 2**attempt) * random.uniform(1, 1.5)
                self._sleep(own if pause is None else min(_MAX_PAUSE_S, max(own, pause)))
        raise UserError(f"address: {self._endpoint.address} failed {self._retries + 1} times; the last time: {fault}",
                        "address")

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, httpx.Headers, str]:
        """Send a request and read the response, all within the timeout."""
        until = time.monotonic() + self._timeout_s
        with self._lock:
            self.n_requests += 1
        with self._http.stream(method, self._endpoint.address + path, json=body) as response:
            content = b""
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > until:
                    raise _TooSlow(f"no complete response within {self._timeout_s:g} s")
                if len(content) > MAX_BYTES:
                    raise _TooSlow(f"a response of more than {MAX_BYTES:,} bytes")
            return response.status_code, response.headers, content.decode("utf-8", "replace")

    def _final(self, status: int, headers: httpx.Headers, text: str) -> Exception:
        """Return the error of a response that would be the same again."""
        said = self._endpoint.without_key(" ".join(_message(text).split()))[:300]
        if status in (401, 403):
            return UserError(f"key: the endpoint refuses the key ({status}); set {KEY}. It says: {said}", "key")
        if 300 <= status < 400:
            return UserError(f"address: {self._endpoint.address} redirects to another address, which is not followed",
                             "address")
        if status in (400, 422):
            return RequestRefused(said)
        return UserError(f"address: {self._endpoint.address} answers with status {status}: {said}", "address")

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(0.2, left))


class _TooSlow(Exception):
    """A response that takes too long or is too large."""


def asked_pause(headers: httpx.Headers) -> float | None:
    """Return the seconds to wait that a response asks for, or None."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


def _message(text: str) -> str:
    """Return what an error response says: its message if it has one, else its text."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _options(logprobs: Any) -> list[tuple[str, dict[str, float]]] | None:
    """Return the tokens of an answer with the probabilities of their alternatives, or None if there are none."""
    rows = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(rows, list) or not rows:
        return None
    try:
        return [(str(row["token"]), {str(o["token"]): probability(float(o["logprob"]))
                                     for o in [row, *(row.get("top_logprobs") or [])]}) for row in rows]
    except (KeyError, TypeError, ValueError):
        return None
