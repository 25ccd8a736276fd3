"""An answer of an endpoint that is shown while it is written, and a test of the connection.  No torch.

Servers send a stream as server-sent events, each with a part of the text.  Those that cannot stream send the whole
answer, which is read, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from sae.errors import UserError
from sae.explain.answers import Unparsable, explanation_of
from sae.explain.budget import Budget
from sae.explain.chat import RequestRefused
from sae.explain.endpoint import FOR_A_MOMENT, MAX_BYTES, PATH, EndpointClient, asked_pause
from sae.explain.endpoint_settings import Endpoint
from sae.explain.templates import Messages, Template

Show = Callable[[str], None]
_MAX_PAUSE_S = 10.0  # somebody waits
_TEST: Messages = [{"role": "user", "content": "Answer with the word yes."}]


class _Failed(Exception):
    """A failure for a moment, and the seconds to wait that the server asks for."""

    def __init__(self, said: str, pause: float | None = None) -> None:
        super().__init__(said)
        self.pause = pause


class StreamingClient(EndpointClient):
    """A client that shows an answer while it arrives.  Nothing is cached, as one person asks once."""

    def __init__(self, endpoint: Endpoint, *, timeout_s: float = 60, retries: int = 2, **more: Any) -> None:
        super().__init__(endpoint, None, Budget(), timeout_s=timeout_s, retries=retries, **more)

    def stream(self, messages: Messages, max_tokens: int, show: Show) -> str:
        """Return the answer; `show` is called with the text so far, from the beginning again after a failure.

        Raises UserError (field `address`) if it fails each time, and RequestRefused.
        """
        attempt = 0
        while True:
            self._check()
            body = self._body(messages, max_tokens, False) | {"stream": True}
            try:
                return self._streamed(body, show)
            except RequestRefused as refusal:
                if not self._learn(refusal, body):
                    raise
            except (httpx.TransportError, httpx.DecodingError, _Failed) as failure:
                said = self._endpoint.without_key(str(failure) or type(failure).__name__)
                if attempt == self._retries:
                    raise UserError(f"address: {self._endpoint.address} failed {attempt + 1} times; the last time: "
                                    f"{said}", "address") from None
                pause = failure.pause if isinstance(failure, _Failed) else None
                own = self._pause_s * 2**attempt
                self._sleep(min(_MAX_PAUSE_S, max(own, pause or 0.0)))
                attempt += 1

    def _streamed(self, body: dict[str, Any], show: Show) -> str:
        until = time.monotonic() + self._timeout_s
        with self._http.stream("POST", self._endpoint.address + PATH, json=body) as response:
            if response.status_code != 200 or "text/event-stream" not in response.headers.get("content-type", ""):
                return self._whole(response, until, show)
            text, n_bytes, ended = "", 0, False
            for line in response.iter_lines():
                self._check()
                n_bytes += len(line)
                if time.monotonic() > until or n_bytes > MAX_BYTES:
                    raise _Failed(f"no complete answer within {self._timeout_s:g} s and {MAX_BYTES:,} bytes")
                name, _, value = line.partition(":")
                if name != "data" or not value.strip():
                    continue
                if value.strip() == "[DONE]":
                    ended = True
                    break
                part, last = _part(value)
                ended = ended or last
                if part:
                    text += part
                    show(self._endpoint.without_key(text))
        if not ended:
            raise _Failed("the stream ended too early")
        return self._endpoint.without_key(text)

    def _whole(self, response: httpx.Response, until: float, show: Show) -> str:
        """Return the answer of a server that does not stream.  Raises as `_streamed` does."""
        content = b""
        for piece in response.iter_bytes():
            content += piece
            if time.monotonic() > until or len(content) > MAX_BYTES:
                raise _Failed(f"no complete answer within {self._timeout_s:g} s and {MAX_BYTES:,} bytes")
        said = content.decode("utf-8", "replace")
        if response.status_code in FOR_A_MOMENT:
            raise _Failed(f"status {response.status_code}", asked_pause(response.headers))
        if response.status_code != 200:
            raise self._final(response.status_code, response.headers, said)
        row = _object(said)
        text = self._read(row, []).text
        show(text)
        return text


def _part(line: str) -> tuple[str, bool]:
    """Return the text of one event, and whether the answer ends with it."""
    row = _object(line)
    if row.get("error"):
        raise _Failed(f"the endpoint stops with an error: {str(row['error'])[:200]}")
    choices = row.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    return text if isinstance(text, str) else "", choice.get("finish_reason") is not None


def _object(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError:
        raise _Failed("its response is broken JSON") from None
    if not isinstance(row, dict):
        raise _Failed("its response is no JSON object")
    return row


def stream_explanation(
    client: StreamingClient, messages: Messages, retry: Template, max_tokens: int, show: Show,
) -> str:
    """Return the explanation in a streamed answer.  An answer that cannot be read is asked for once more.

    Raises Unparsable if the second cannot be read either, UserError (field `address`) and RequestRefused.
    """
    answer = client.stream(messages, max_tokens, show)
    try:
        return explanation_of(answer)
    except Unparsable as fault:
        more = [*messages, {"role": "assistant", "content": answer or "(empty)"}, *retry.fill(fault=fault)]
        return explanation_of(client.stream(more, max_tokens, show))


@dataclass(frozen=True)
class Connection:
    """A connection that works: the names of the endpoint's models, and what its answers come with."""

    models: list[str]
    answer: str
    seconds: float
    usage: bool
    logprobs: bool


def try_connection(endpoint: Endpoint, timeout_s: float = 20) -> Connection:
    """Ask the endpoint one short question.  Raises UserError (field `address`, `model` or `key`) if that fails."""
    client = StreamingClient(endpoint, timeout_s=timeout_s, retries=0)
    try:
        try:
            models = client.models()
        except (UserError, RequestRefused) as fault:  # some servers do not list their models
            if isinstance(fault, UserError) and fault.field == "key":
                raise
            models = []
        began = time.monotonic()
        answer = client.ask(_TEST, 16, logprobs=True)
    except RequestRefused as refusal:
        raise UserError(f"model: the endpoint refuses the request: {refusal}", "model") from None
    finally:
        client.close()
    return Connection(models, answer.text, time.monotonic() - began, not answer.guessed, answer.options is not None)
