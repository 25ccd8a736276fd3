"""A server that speaks OpenAI's chat completions over HTTP, with the faults that real endpoints have.

A test gives it a `brain`, which makes the answer's text from the messages, and `faults`, a function from the number of
a request to the name of its fault ("" for none):

    429, 500, 401, 400   that status; 401 and 400 repeat the key in their message, as some services do
    slow                 the answer takes longer than the client's timeout
    drip                 the answer arrives byte by byte, for longer than the timeout
    broken               the response is broken JSON
    truncated            the connection ends in the middle of the response
    redirect             a redirect to another address
    empty                a response without choices
    no_usage             no usage in the response
    fenced               the answer is in a code fence, after a chain of thought
    garbage              the answer is prose
    unstreamed           the whole answer, although a stream was asked for

A request with `stream` gets server-sent events; `truncated` ends them in the middle, and `drip` sends them slowly.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Brain = Callable[[list[dict[str, str]]], str]
Faults = Callable[[int], str]
SLOW_S = 1.5
CREATED = 1_700_000_000


@dataclass
class Served:
    """A request: the time of its arrival, its body, headers and fault, and whether its answer was sent completely."""

    body: dict[str, Any]
    headers: dict[str, str]
    fault: str
    answered: bool = False

    @property
    def messages(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.body["messages"]
        return found

    @property
    def key(self) -> str:
        return json.dumps(self.messages, sort_keys=True)


@dataclass
class ChatServer:
    """The server's address, and what it was asked."""

    brain: Brain
    faults: Faults
    logprobs: bool = True
    delay_s: float = 0.0
    refuses: tuple[str, ...] = ()  # parameters that it does not take
    address: str = ""
    served: list[Served] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, one: Served) -> None:
        with self._lock:
            one.fault = self.faults(len(self.served))
            self.served.append(one)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        with self._lock:
            self._at_once -= 1


@contextmanager
def chat_server(brain: Brain, faults: Faults = lambda number: "", **options: Any) -> Iterator[ChatServer]:
    """Serve until the block ends."""
    state = ChatServer(brain, faults, **options)

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: ChatServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise the second part of an answer waits 40 ms for the receipt of the first

    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [
            {"id": "test-model", "object": "model", "created": CREATED, "owned_by": "test"}]})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        one = Served(json.loads(content), {name.lower(): value for name, value in self.headers.items()}, "")
        state = self.server_state
        state.enter(one)
        try:
            time.sleep(state.delay_s)
            self._answer(state, one)
        except (BrokenPipeError, ConnectionResetError):  # the client is gone
            pass
        finally:
            state.leave()

    def _answer(self, state: ChatServer, one: Served) -> None:
        key = one.headers.get("authorization", "").removeprefix("Bearer ")
        if one.fault in ("401", "400"):
            self._send(int(one.fault), {"error": {"message": f"Incorrect API key provided: {key}."}})
        elif one.fault in ("429", "500"):
            self._send(int(one.fault), {"error": {"message": "try again"}}, {"Retry-After": "0"})
        elif one.fault == "redirect":
            self._send(302, {}, {"Location": "http://127.0.0.1:1/v1/chat/completions"})
        elif refused := [name for name in state.refuses if name in one.body]:
            self._send(400, {"error": {"message": f"Unsupported parameter: '{refused[0]}' is not supported."}})
        elif one.fault == "broken":
            self._raw(b'{"choices": [{"message": {"content": "')
        elif one.fault == "empty":
            self._send(200, {"choices": []})
        else:
            self._good(state, one, key)

    def _good(self, state: ChatServer, one: Served, key: str) -> None:
        text = state.brain(one.messages)
        if one.fault == "fenced":
            text = f"<think>It may be [1, 2] or {{\"answers\": [7]}}.</think>\nHere it is:\n```json\n{text}\n```\n"
        elif one.fault == "garbage":
            text = f"I am not sure.\nMy key is {key}."
        if one.body.get("stream") and one.fault != "unstreamed":
            self._stream(one, text)
            return
        choice: dict[str, Any] = {
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if one.body.get("logprobs") and state.logprobs:
            choice["logprobs"] = {"content": _logprobs(text)}
        content: dict[str, Any] = {**_head_of(one, "chat.completion"), "choices": [choice]}
        if one.fault != "no_usage":
            n = sum(len(message["content"]) for message in one.messages) // 4
            content["usage"] = {"prompt_tokens": n, "completion_tokens": len(text) // 4,
                                "total_tokens": n + len(text) // 4}
        whole = json.dumps(content).encode()
        if one.fault == "slow":
            time.sleep(SLOW_S)
        if one.fault == "truncated":
            self._raw(whole[: len(whole) // 2], len(whole))
            self.close_connection = True
            return
        if one.fault == "drip":
            self._head(len(whole))
            for byte in whole:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(SLOW_S / 20)
            return
        self._raw(whole)
        one.answered = True

    def _stream(self, one: Served, text: str) -> None:
        """Send the text in parts of five characters, then the end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        parts = [text[i : i + 5] for i in range(0, len(text), 5)]
        self.wfile.write(b": hello\n\n")
        for part in parts[: len(parts) // 2] if one.fault == "truncated" else parts:
            if one.fault == "drip":
                time.sleep(SLOW_S / 20)
            self._event(one, {"index": 0, "delta": {"content": part}, "finish_reason": None})
        if one.fault == "truncated":
            return
        self._event(one, {"index": 0, "delta": {}, "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")
        one.answered = True

    def _event(self, one: Served, choice: dict[str, Any]) -> None:
        row = {**_head_of(one, "chat.completion.chunk"), "choices": [choice]}
        self.wfile.write(f"data: {json.dumps(row)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(json.dumps(content).encode(), status=status, headers=headers)

    def _raw(
        self, content: bytes, length: int | None = None, status: int = 200, headers: dict[str, str] | None = None,
    ) -> None:
        self._head(len(content) if length is None else length, status, headers)
        self.wfile.write(content)

    def _head(self, length: int, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {"Content-Type": "application/json", "Content-Length": str(length)}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def _head_of(one: Served, kind: str) -> dict[str, Any]:
    """Return the fields with which every response begins."""
    return {"id": "chatcmpl-1", "object": kind, "created": CREATED, "model": str(one.body.get("model", ""))}


def _logprobs(text: str) -> list[dict[str, Any]]:
    """Return tokens of an answer: numbers, and what is between them.  A number is meant with probability 0.9."""
    rows = []
    for part in re.findall(r"\d+|\D+", text):
        others = [_option(str(n), 0.1) for n in (0, 1) if str(n) != part][:1]
        known = [_option(part, 0.9), *others] if part.isdecimal() else []
        rows.append({**_option(part, 0.9), "top_logprobs": known})
    return rows


def _option(token: str, share: float) -> dict[str, Any]:
    return {"token": token, "bytes": list(token.encode()), "logprob": math.log(share)}
