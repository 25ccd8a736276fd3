"""Steering for programs: start a run, follow it, read its result.

A body has the fields of the steering form, which checks it, and faults are named as on the form: `strength-0` is the
strength of the first latent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import ImmutableMultiDict

from app.pages.api.security import BEARER
from app.pages.dependencies import CachedRequestsDep, RequestSessionsDep, SessionDep, SteeringDep, WorkspaceDep
from app.pages.markup_choice import markup_word
from app.pages.steer import form_page, run_page
from app.pages.steer.form import stop_lines
from app.pages.steer.form_page import SourcesDep
from app.pages.steer.result import Found
from app.pages.steer.run_page import FollowedDep, FoundDep
from app.pages.steer.run_view import run_json
from app.web.parameters import PathNumber
from app.worker.protocol import Text
from sae.errors import UserError
from sae.steering.request import ChatMessage, Mode, Positions

router = APIRouter(prefix="/api/steer", tags=["steering"], dependencies=[BEARER])

MAX_WAIT_S = 60.0
_EVENT_EVERY_S = 0.05  # an event has the whole text so far, so one for every token would be too many
_SAE = "demo/2-res-batchtopk-4k"


class SteeredLatent(BaseModel):
    """A latent and what to do with it.  Without a number of its mode it gets a usual one."""

    model_config = ConfigDict(extra="forbid")

    sae: str
    latent: int
    mode: Mode = "add"
    strength: float | None = Field(default=None, description="add: × the latent's maximum activation")
    target: float | None = Field(default=None, description="clamp: the activation to set, × its maximum")
    factor: float | None = Field(default=None, description="scale: by what its activation is multiplied")


class SteerIn(BaseModel):
    """A steering run.  What is left out is as on the untouched form."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"prompt": "def read_config(path):", "latents": [{"sae": _SAE, "latent": 39, "strength": 2.0}], "length": 40,
         "seed": 1},
        {"prompt": "def read_config(path):", "latents": [{"sae": _SAE, "latent": 39}], "sweep": [0.5, 1, 2, 4]}]})

    prompt: str = Field(default="", description="The text to continue")
    chat: list[ChatMessage] = Field(default=[], description="Instead of a prompt: messages, the last one the user's")
    latents: list[SteeredLatent]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    length: int | None = Field(default=None, description="New tokens")
    seed: int | None = None
    repetition_penalty: float | None = None
    stop: list[str] | None = None
    samples: int | None = None
    positions: Positions | None = Field(default=None, description="The positions that are steered")
    start: int | None = Field(default=None, description="With positions=from: the first one")
    special: bool = Field(default=False, description="Steer special tokens such as BOS, too")
    control: bool = Field(default=False, description="Also write with a random direction of the same norm")
    markup: bool | None = Field(
        default=None, description="Whether special tokens that are spelled in the prompt are read as these tokens; "
        "null leaves it to the SAE")
    sweep: list[float] | None = Field(
        default=None, description="Write one text for each of these strengths; empty: strengths that suit the latent")
    sweep_of: int = Field(default=0, description="The place of the latent that is swept")


class Started(BaseModel):
    """A run that was started."""

    id: str
    url: str = Field(description="Its page, which is a permanent link")


_NUMBERS = ("temperature", "top_p", "top_k", "length", "seed", "repetition_penalty", "samples", "start")


def form_fields(body: SteerIn) -> ImmutableMultiDict[str, Any]:
    """Return the fields that the steering form would send.

    Raises UserError if a chat comes with a prompt, or if its last message is not the user's.
    """
    pairs: list[tuple[str, Any]] = []
    for one in body.latents:
        pairs += [("sae", one.sae), ("latent", str(one.latent)), ("mode", one.mode)]
        pairs += [(name, _text(getattr(one, name))) for name in ("strength", "target", "factor")]
    pairs += [(name, _text(value)) for name in _NUMBERS if (value := getattr(body, name)) is not None]
    pairs += [(name, "1") for name in ("special", "control") if getattr(body, name)]
    pairs += [("markup", markup_word(body.markup))] if body.markup is not None else []
    pairs += [("positions", body.positions)] if body.positions is not None else []
    pairs += [("stop", stop_lines(body.stop))] if body.stop is not None else []
    if body.sweep is not None:
        pairs += [("sweep", " ".join(map(_text, body.sweep))), ("sweep_of", str(body.sweep_of))]
    return ImmutableMultiDict(pairs + (_chat_fields(body) if body.chat else [("prompt", body.prompt)]))


def _chat_fields(body: SteerIn) -> list[tuple[str, Any]]:
    if body.prompt:
        raise UserError("chat: give a prompt or messages, not both", "chat")
    *said, last = body.chat
    if last.role != "user":
        raise UserError("chat: the model answers the last message, so it should be the user's", "chat")
    pairs: list[tuple[str, Any]] = [("chat", "1"), ("prompt", last.content)]
    if said and said[0].role == "system":
        pairs.append(("system", said.pop(0).content))
    for message in said:
        pairs += [("role", message.role), ("content", message.content)]
    return pairs


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)


@router.post("", status_code=201, response_model=Started, summary="Start a steering run or a sweep (scope steer)")
async def create(
    request: Request, body: SteerIn, sources: SourcesDep, db: SessionDep, runs: SteeringDep, workspace: WorkspaceDep
) -> Response:
    """Check the run as the form does and start it.  A run that nobody reads for a while is stopped."""
    start = form_page.create_run if body.sweep is None else form_page.create_sweep_run
    return await start(request, form_fields(body), sources, db, runs, workspace, complete=True)


@router.get("/{run_id}", summary="A run: its request, its state, its texts")
async def read(
    found: FoundDep, db: SessionDep, sessions: RequestSessionsDep,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the end of the run")] = 0.0,
) -> dict[str, Any]:
    """Return the run.  `text` has the texts by name once it has ended: baseline, steered, control, steered.2, …"""
    if found.live is not None and wait:
        await sessions.leave(db)  # nobody who only waits holds a connection to the database
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                async for _ in found.live.watch():
                    pass
    return run_json(found.row, found.live)


@router.get("/{run_id}/events", response_class=EventSourceResponse, summary="A run as server-sent events")
async def events(found: FollowedDep) -> AsyncIterator[ServerSentEvent]:
    """Stream `progress` events with the texts so far, and at the end one `done` event with the run."""
    async for _ in run_page.states(found):
        yield ServerSentEvent(event="progress", data=_progress(found))
        if found.live is not None and not found.live.final:
            await asyncio.sleep(_EVENT_EVERY_S)
    yield ServerSentEvent(event="done", data=run_json(found.row, found.live))


def _progress(found: Found) -> dict[str, Any]:
    live = found.live
    if live is None:
        return {"state": found.row.state, "note": "", "text": run_json(found.row, None)["text"]}
    return {"state": live.state, "note": live.note, "text": {key: _plain(text) for key, text in live.columns.items()}}


def _plain(text: Text) -> str:
    return b"".join(text.token_bytes()).decode("utf-8", errors="replace")


@router.post("/{run_id}/stop", summary="Stop a run within a token (scope steer)")
async def stop(found: FoundDep, runs: SteeringDep) -> dict[str, Any]:
    """Stop the run; a finished one stays as it is."""
    await runs.stop_anywhere(found.row.id)
    return run_json(found.row, found.live)


@router.get("/{run_id}/next/{key}/{position}", summary="Next-token probabilities at a token of a finished text")
async def next_tokens(
    request: Request, found: FoundDep, cached_requests: CachedRequestsDep, workspace: WorkspaceDep, key: str,
    position: PathNumber,
) -> Response:
    """Return the probabilities at the token's position and after it, unsteered and steered."""
    return await run_page.next_tokens(request, found, cached_requests, workspace, key, position)
