"""What a steering run's page and its events show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.models import SteerRun
from app.steer_form import SaeFacts
from app.steering import FINAL_STATES, LiveRun
from app.tokens_view import Piece, text_pieces
from app.worker.protocol import Text
from sae.records import Token
from sae.steering_spec import SteerRequest

TITLES = {"baseline": "Baseline", "steered": "Steered"}


@dataclass(frozen=True)
class ColumnView:
    """One text: the prompt's pieces, the output's, and how it ended."""

    name: str
    title: str
    prompt: list[Piece]
    output: list[Piece]
    tokens: int
    finish: str | None


@dataclass(frozen=True)
class RunView:
    """A run as it stands, going or stored."""

    id: str
    created: float
    state: str
    note: str
    error: str | None
    request: SteerRequest
    facts: dict[str, SaeFacts]
    columns: list[ColumnView]
    tokens: int
    seconds: float

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def same(self) -> bool:
        """Whether both finished texts are equal."""
        return self.state == "succeeded" and self.columns[0].output == self.columns[1].output

    @property
    def written(self) -> int:
        """Tokens of the longest output so far."""
        return max((column.tokens for column in self.columns), default=0)


def run_view(row: SteerRun, live: LiveRun | None) -> RunView:
    """The run from its row, or, while it goes, from what is known of it now."""
    request, facts = stored_request(row)
    result = row.result or {}
    if live is not None:
        result = live.result or {}
        prompt, texts = live.prompt, live.columns
        state, note, error = live.state, live.note, live.error
    else:
        prompt = Text.model_validate(result.get("prompt") or {})
        texts = {name: Text.model_validate(text) for name, text in (result.get("columns") or {}).items()}
        state, note, error = row.state, "", row.error
    return RunView(
        row.id, row.created, state, note, error, request, facts, columns(request, prompt, texts),
        tokens=int(result.get("tokens") or 0), seconds=float(result.get("seconds") or 0.0))


def stored_request(row: SteerRun) -> tuple[SteerRequest, dict[str, SaeFacts]]:
    """What a run was asked, and the facts of its SAEs at that time."""
    facts = {sae_id: SaeFacts(**values) for sae_id, values in row.request["saes"].items()}
    return SteerRequest.model_validate(row.request["steer"]), facts


def columns(request: SteerRequest, prompt: Text, texts: Mapping[str, Text]) -> list[ColumnView]:
    """Both columns; tokens are coloured by the steered latents' activations, in shares of their maxima."""
    maxima = [i.max_act for i in request.interventions]
    # BOS says nothing to a reader and is left out; the positions go on counting it.
    shown = Text(ids=prompt.ids[1:], pieces=prompt.pieces[1:], acts=prompt.acts[1:])
    before = _pieces(shown, maxima, start=1)
    return [
        ColumnView(
            name, title, before, _pieces(texts.get(name, Text()), maxima, start=len(prompt.ids)),
            tokens=len(texts[name].ids) if name in texts else 0,
            finish=texts[name].finish if name in texts else None)
        for name, title in TITLES.items()]


def _pieces(text: Text, maxima: Sequence[float], start: int) -> list[Piece]:
    info = {i: Token(i, piece, False, 0) for i, piece in zip(text.ids, text.token_bytes(), strict=True)}
    values = [max((a / m for a, m in zip(row, maxima, strict=True) if m > 0), default=0.0) for row in text.acts]
    values += [0.0] * (len(text.ids) - len(values))
    return text_pieces(text.ids, info, values, 1.0, start=start, unit=" × max", digits=3)


def run_json(row: SteerRun, live: LiveRun | None) -> dict[str, Any]:
    """The run for programs: the request as it was made, and the texts with ids, bytes and activations."""
    result = (live.result if live is not None else None) or row.result
    texts = {}
    for name, text in ((result or {}).get("columns") or {}).items():
        texts[name] = b"".join(Text.model_validate(text).token_bytes()).decode("utf-8", errors="replace")
    return {
        "id": row.id, "url": f"/steer/{row.id}", "created": row.created, "state": live.state if live else row.state,
        "error": live.error if live else row.error, "request": row.request["steer"], "saes": row.request["saes"],
        "text": texts, "result": result}
