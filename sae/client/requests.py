"""The requests of the client, written once for both transports.

Each function is a generator that yields `Call`s, receives the JSON of each answer, and returns a record.  A transport
(`sae.client.clients`) sends the calls, waiting for each or awaiting it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from sae.client.records import (
    ActiveLatent,
    Comment,
    Context,
    FoundLatent,
    Label,
    Latent,
    LatentList,
    LatentOnText,
    LatentTable,
    ListMember,
    Model,
    Reason,
    Run,
    Sae,
    SteerEvent,
    SteeringResult,
    TextActivations,
    TextLatent,
    TextToken,
    record,
)

T = TypeVar("T")
MAX_PAGE = 500  # rows of a table that are asked for at once
MAX_BATCH = 32  # texts that are sent at once
WAIT_S = 25.0  # for which one request waits for the end of a run; proxies often end one after a minute


class SaescopeError(Exception):
    """An error that the server answered: `status` is HTTP's, `field` the input at fault, `body` the whole answer."""

    def __init__(self, status: int, message: str, field: str | None = None, body: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status, self.field, self.body = status, field, body or {}


@dataclass(frozen=True)
class Call:
    """One request to the server."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    json: Any = None


Flow = Generator[Call, Any, T]


def answer(status: int, content: bytes, headers: Mapping[str, str]) -> Any:
    """Return the JSON of an answer.  Raises SaescopeError for an error, and for an answer that is no JSON."""
    if status == 204:
        return None
    if 200 <= status < 300:
        if "json" in headers.get("content-type", ""):
            return json.loads(content)
        raise SaescopeError(status, "The answer is not JSON: is this the address of a saescope server?")
    try:
        body = json.loads(content)
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    raise SaescopeError(status, str(body.get("error") or f"HTTP {status}"), body.get("field"), body)


# ---- reading


def models() -> Flow[list[Model]]:
    rows = yield Call("GET", "/api/models")
    return [record(Model, row) for row in rows]


def saes() -> Flow[list[Sae]]:
    rows = yield Call("GET", "/api/saes")
    return [record(Sae, row) for row in rows]


def sae(sae_id: str) -> Flow[Sae]:
    return record(Sae, (yield Call("GET", _sae_path(sae_id))))


def search(text: str, sae_id: str | None, limit: int) -> Flow[list[FoundLatent]]:
    found = yield Call("GET", "/api/search", {"q": text, "sae": sae_id or ""})
    return [record(FoundLatent, row, reasons=[record(Reason, one) for one in row["reasons"]])
            for row in found["latents"][:limit]]


def latent(base: str, sae_id: str, number: int) -> Flow[Latent]:
    path = f"{_sae_path(sae_id)}/latents/{number}"
    found = yield Call("GET", path)
    written = yield Call("GET", f"{path}/label")
    row, tokens = found["latent"], found["tokens"]

    def text(token: int) -> str:
        return str(tokens[str(token)])

    return record(
        Latent, row, sae=sae_id, url=f"{base}/{sae_id}/{number}", label=record(Label, written), values=found,
        explanations=found.get("explanations", []),
        fires_on=[(text(one["token"]), one["n"], one["lift"]) for one in row["top_tokens"]],
        promotes=[(text(token), value) for token, value in row["logit_pos"]],
        suppresses=[(text(token), value) for token, value in row["logit_neg"]],
        contexts=[record(Context, one, tokens=[text(token) for token in one["tokens"]]) for one in found["contexts"]])


def table(sae_id: str, limit: int | None, query: Mapping[str, Any]) -> Flow[LatentTable]:
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    page: dict[str, Any] = {"total": 0, "sort": ""}
    while cursor is not None and (limit is None or len(rows) < limit):
        size = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(rows))
        page = yield Call("GET", f"{_sae_path(sae_id)}/latents", {**query, "limit": size, "cursor": cursor})
        rows += page["latents"]
        cursor = page["next"] or None
    return LatentTable(sae_id, page["total"], page["sort"], rows)


def labels(sae_id: str) -> Flow[list[Label]]:
    rows = yield Call("GET", f"{_sae_path(sae_id)}/labels")
    return [record(Label, row) for row in rows]


def label(sae_id: str, number: int) -> Flow[Label]:
    return record(Label, (yield Call("GET", f"{_sae_path(sae_id)}/latents/{number}/label")))


def write_label(sae_id: str, number: int, change: Mapping[str, Any]) -> Flow[Label]:
    body = {name: value for name, value in change.items() if value is not None}
    return record(Label, (yield Call("PUT", f"{_sae_path(sae_id)}/latents/{number}/label", json=body)))


def comments(sae_id: str, number: int) -> Flow[list[Comment]]:
    rows = yield Call("GET", f"{_sae_path(sae_id)}/latents/{number}/comments")
    return [record(Comment, row) for row in rows]


def comment(sae_id: str, number: int, text: str) -> Flow[Comment]:
    path = f"{_sae_path(sae_id)}/latents/{number}/comments"
    return record(Comment, (yield Call("POST", path, json={"text": text})))


def stars(sae_id: str) -> Flow[list[int]]:
    return list((yield Call("GET", f"{_sae_path(sae_id)}/stars")))


def star(sae_id: str, number: int, on: bool) -> Flow[None]:
    yield Call("PUT", f"{_sae_path(sae_id)}/latents/{number}/star", json={"starred": on})


# ---- lists


def lists(base: str) -> Flow[list[LatentList]]:
    rows = yield Call("GET", "/api/lists")
    return [_list(base, row) for row in rows]


def latent_list(base: str, list_id: str) -> Flow[LatentList]:
    return _list(base, (yield Call("GET", f"/api/lists/{_part(list_id)}")))


def create_list(base: str, name: str, description: str, test_text: str) -> Flow[LatentList]:
    body = {"name": name, "description": description, "test_text": test_text}
    return _list(base, (yield Call("POST", "/api/lists", json=body)))


def delete_list(list_id: str) -> Flow[None]:
    yield Call("DELETE", f"/api/lists/{_part(list_id)}")


def add_to_list(base: str, list_id: str, sae_id: str, number: int, note: str | None) -> Flow[LatentList]:
    body = {} if note is None else {"note": note}
    return _list(base, (yield Call("PUT", _member_path(list_id, sae_id, number), json=body)))


def remove_from_list(base: str, list_id: str, sae_id: str, number: int) -> Flow[LatentList]:
    return _list(base, (yield Call("DELETE", _member_path(list_id, sae_id, number))))


def list_on_text(list_id: str, text: str) -> Flow[list[LatentOnText]]:
    rows = yield Call("GET", f"/api/lists/{_part(list_id)}/text", {"text": text})
    return [record(LatentOnText, row) for row in rows]


def _list(base: str, row: Mapping[str, Any]) -> LatentList:
    members = [record(ListMember, one) for one in row.get("latents", [])]
    return record(LatentList, row, url=f"{base}{row['url']}", latents=members)


def _member_path(list_id: str, sae_id: str, number: int) -> str:
    return f"/api/lists/{_part(list_id)}/latents/{_sae_path(sae_id).removeprefix('/api/saes/')}/{number}"


# ---- the model


def search_text(text: str, sae_id: str | None, model: str | None, rank: str, dense: bool, top: int) -> Flow[
        list[ActiveLatent]]:
    body = {"text": text, "sae": sae_id or "", "model": model or "", "rank": rank, "dense": dense, "top": top}
    found = yield Call("POST", "/api/search/text", json=body)
    return [record(ActiveLatent, row) for row in found["latents"]]


def activations(
    sae_id: str, texts: Sequence[str], latents: Sequence[int], top: int, rank: str, dense: bool
) -> Flow[list[TextActivations]]:
    out: list[TextActivations] = []
    for first in range(0, len(texts), MAX_BATCH):
        body = {"sae": sae_id, "texts": list(texts[first : first + MAX_BATCH]), "latents": list(latents), "top": top,
                "rank": rank, "dense": dense}
        found = yield Call("POST", "/api/inspect", json=body)
        out += [record(TextActivations, one, sae=sae_id, tokens=[record(TextToken, token) for token in one["tokens"]],
                       ranked=[record(TextLatent, row) for row in one["ranked"]]) for one in found["texts"]]
    return out


def steer_body(
    latents: Sequence[Mapping[str, Any]], prompt: str, chat: Sequence[Mapping[str, str]], sweep: Sequence[float] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the body of a steering request.  Settings that are None are left out."""
    body: dict[str, Any] = {"latents": [dict(one) for one in latents]}
    body |= {"prompt": prompt} if prompt else {}
    body |= {"chat": [dict(one) for one in chat]} if chat else {}
    body |= {"sweep": list(sweep)} if sweep is not None else {}
    return body | {name: value for name, value in settings.items() if value is not None}


def start(base: str, body: Mapping[str, Any]) -> Flow[SteeringResult]:
    made = yield Call("POST", "/api/steer", json=dict(body))
    return (yield from steering(base, str(made["id"]), 0.0))


def steer(base: str, body: Mapping[str, Any]) -> Flow[SteeringResult]:
    run = yield from start(base, body)
    while not run.finished:
        run = yield from steering(base, run.id, WAIT_S)
    return run


def steering(base: str, run_id: str, wait: float) -> Flow[SteeringResult]:
    return result(base, (yield Call("GET", f"/api/steer/{_part(run_id)}", {"wait": wait})))


def stop(base: str, run_id: str) -> Flow[SteeringResult]:
    return result(base, (yield Call("POST", f"/api/steer/{_part(run_id)}/stop")))


def events_path(run_id: str) -> str:
    return f"/api/steer/{_part(run_id)}/events"


def result(base: str, found: Mapping[str, Any]) -> SteeringResult:
    """Return a steering run from its JSON."""
    cells = (found.get("result") or {}).get("cells") or []
    strengths = {cell["strength"]: "".join(cell["text"]["pieces"]).encode("latin-1").decode("utf-8", errors="replace")
                 for cell in cells}
    return record(SteeringResult, found, url=f"{base}{found['url']}", strengths=strengths, values=dict(found))


class EventReader:
    """A reader of server-sent events: it takes their lines and returns records."""

    def __init__(self, base: str) -> None:
        self._base, self._name, self._data = base, "", list[str]()

    def take(self, line: str) -> Iterator[SteerEvent | SteeringResult]:
        """Yield the event that this line ends, if it ends one."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            found, done = json.loads("\n".join(self._data)), self._name == "done"
            self._name, self._data = "", []
            yield result(self._base, found) if done else record(SteerEvent, found)


# ---- runs


def runs(limit: int) -> Flow[list[Run]]:
    rows = yield Call("GET", "/api/runs", {"limit": limit})
    return [record(Run, row) for row in rows]


def run(run_id: str) -> Flow[Run]:
    return record(Run, (yield Call("GET", f"/api/runs/{_part(run_id)}")))


def start_run(kind: str, spec: Mapping[str, Any]) -> Flow[Run]:
    return record(Run, (yield Call("POST", "/api/runs", json={"kind": kind, "spec": dict(spec)})))


def cancel_run(run_id: str) -> Flow[Run]:
    return record(Run, (yield Call("POST", f"/api/runs/{_part(run_id)}/cancel")))


def _part(text: str) -> str:
    return quote(text, safe="")


def _sae_path(sae_id: str) -> str:
    model, slash, name = sae_id.partition("/")
    if not (model and slash and name):
        raise ValueError(f"sae: {sae_id!r} is not an id such as demo/2-res-batchtopk-4k")
    return f"/api/saes/{_part(model)}/{_part(name)}"
