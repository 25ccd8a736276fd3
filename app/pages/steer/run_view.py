"""A steering run as its page and its events show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.db.tables import SteerRun
from app.pages.steer.form import SaeFacts
from app.render.token_text import Piece, text_pieces
from app.web.parameters import whole_number
from app.worker.protocol import Cell, Text
from app.worker.steering_runs import FINAL_STATES, LiveRun
from sae.steering.measurement_requests import SweepRequest
from sae.steering.request import SteerRequest, column_key
from sae.store.records import Token

TITLES = {"baseline": "Baseline", "steered": "Steered", "control": "Random control"}


@dataclass(frozen=True)
class ColumnView:
    """One text: the pieces of prompt and output, and how it ended.  `start` is the output's first position."""

    key: str
    name: str
    sample: int
    prompt: list[Piece]
    output: list[Piece]
    tokens: int
    start: int
    kl: list[float]
    finish: str | None

    @property
    def title(self) -> str:
        return TITLES[self.name]


@dataclass(frozen=True)
class RunView:
    """A run in its present state, live or stored.

    `columns` has the columns of all samples, grouped by sample; a sweep has `cells` instead.
    `by` is the intervention whose activation colours the tokens; None means the strongest of all.
    `start` is the first position after the prompt.
    """

    id: str
    created: float
    state: str
    note: str
    restarted: str
    error: str | None
    request: SteerRequest
    sweep: SweepRequest | None
    facts: dict[str, SaeFacts]
    prompt: list[Piece]
    start: int
    columns: list[ColumnView]
    cells: list[Cell]
    growing: dict[str, Text]
    by: int | None
    tokens: int
    seconds: float
    unstored: str = ""  # why the finished run is not in the database, as a clause

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def samples(self) -> list[list[ColumnView]]:
        """The columns of each sample."""
        n = len(self.request.columns)
        return [self.columns[i : i + n] for i in range(0, len(self.columns), n)]

    @property
    def same(self) -> bool:
        """Whether every finished text equals the baseline's."""
        steered = [(row[0], column) for row in self.samples for column in row if column.name == "steered"]
        return self.state == "succeeded" and self.sweep is None and all(
            base.output == column.output for base, column in steered)

    @property
    def beyond(self) -> list[str]:
        """Return a sentence about each SAE whose training had shorter contexts than the longest text of this run."""
        longest = self.start + max((column.tokens for column in self.columns), default=0)
        shorter = {sae_id: length for sae_id, facts in self.facts.items()
                   if (length := facts.context_length) and longest > length}
        return [f"The text is longer than the contexts of {length:,} tokens on which {sae_id} was trained."
                for sae_id, length in shorter.items()]

    @property
    def written(self) -> int:
        """The number of tokens of the longest output so far."""
        return max((len(text.ids) for text in self.growing.values()), default=0)


def run_view(row: SteerRun, live: LiveRun | None, by: int | None = None) -> RunView:
    """Return the run from its row, or, while it is live, from its present state."""
    request, facts = stored_request(row)
    sweep = stored_sweep(row)
    result = row.result or {}
    if live is not None:
        result = live.result or {}
        prompt, texts, cells = live.prompt, live.columns, live.cells
        state, note, restarted, error = live.state, live.note, live.restarted, live.error
    else:
        prompt = Text.model_validate(result.get("prompt") or {})
        texts = {name: Text.model_validate(text) for name, text in (result.get("columns") or {}).items()}
        cells = [Cell.model_validate(cell) for cell in result.get("cells") or []]
        state, note, restarted, error = row.state, "", str(result.get("restarted") or ""), row.error
    by = by if by is not None and by < len(request.interventions) else None
    return RunView(
        row.id, row.created, state, note, restarted, error, request, sweep, facts,
        prompt=prompt_pieces(request, prompt, by), start=len(prompt.ids),
        columns=[] if sweep else columns(request, prompt, texts, by), cells=cells, growing=texts, by=by,
        tokens=int(result.get("tokens") or 0), seconds=float(result.get("seconds") or 0.0),
        unstored=live.unstored if live is not None and live.final else "")


def stored_request(row: SteerRun) -> tuple[SteerRequest, dict[str, SaeFacts]]:
    """Return a run's request, and the facts of its SAEs at that time."""
    facts = {sae_id: SaeFacts(**values) for sae_id, values in row.request["saes"].items()}
    return SteerRequest.model_validate(row.request["steer"]), facts


def stored_sweep(row: SteerRun) -> SweepRequest | None:
    """Return a run's sweep request, or None if it is no sweep."""
    values = row.request.get("sweep")
    return SweepRequest.model_validate({"request": row.request["steer"], **values}) if values else None


def columns(
    request: SteerRequest, prompt: Text, texts: Mapping[str, Text], by: int | None = None,
) -> list[ColumnView]:
    """Return all columns of all samples, coloured by the steered latents' activations as shares of their maxima."""
    before = prompt_pieces(request, prompt, by)
    out = []
    for sample in range(request.samples):
        for name in request.columns:
            key = column_key(name, sample)
            text = texts.get(key, Text())
            out.append(ColumnView(
                key, name, sample, before, pieces(request, text, len(prompt.ids), by), len(text.ids), len(prompt.ids),
                text.kl, text.finish))
    return out


def prompt_pieces(request: SteerRequest, prompt: Text, by: int | None = None) -> list[Piece]:
    """Return the prompt's pieces without BOS, which tells a reader nothing; positions still count it."""
    text = b"".join(prompt.token_bytes()).decode(errors="replace")
    n = 0 if request.prompt and text == request.prompt else 1  # some tokenizers have no BOS
    shown = Text(ids=prompt.ids[n:], pieces=prompt.pieces[n:], acts=prompt.acts[n:])
    return pieces(request, shown, n, by)


def pieces(request: SteerRequest, text: Text, start: int, by: int | None = None) -> list[Piece]:
    """Return a text's tokens from position `start`, coloured by one intervention's latent or the strongest of all."""
    info = {i: Token(i, piece, False, 0) for i, piece in zip(text.ids, text.token_bytes(), strict=True)}
    chosen = [place for place in range(len(request.interventions)) if by is None or place == by]
    values = [_share(row, request, chosen) for row in text.acts]
    values += [0.0] * (len(text.ids) - len(values))
    return text_pieces(text.ids, info, values, 1.0, start=start, unit=" × max", digits=3)


def _share(acts: Sequence[float], request: SteerRequest, chosen: Sequence[int]) -> float:
    maxima = [i.max_act for i in request.interventions]
    return max((acts[n] / maxima[n] for n in chosen if maxima[n] > 0 and n < len(acts)), default=0.0)


def whole_text(row: SteerRun, key: str) -> tuple[Text, Text] | None:
    """Return prompt and output of one text of a stored run by its key (in a sweep: the cell's number), or None."""
    result = row.result or {}
    prompt = Text.model_validate(result.get("prompt") or {})
    cell = whole_number(key, len(result.get("cells") or []))
    if cell is not None:
        return prompt, Cell.model_validate(result["cells"][cell]).text
    text = (result.get("columns") or {}).get(key)
    return (prompt, Text.model_validate(text)) if text else None


def run_json(row: SteerRun, live: LiveRun | None) -> dict[str, Any]:
    """Return the run for programs: the request, and the texts with ids, bytes and activations."""
    result = (live.result if live is not None else None) or row.result
    texts = {name: _plain(text) for name, text in ((result or {}).get("columns") or {}).items()}
    return {
        "id": row.id, "url": f"/steer/{row.id}", "created": row.created, "state": live.state if live else row.state,
        "error": live.error if live else row.error, "request": row.request["steer"],
        "sweep": row.request.get("sweep"), "saes": row.request["saes"], "text": texts, "result": result,
        "unstored": live.unstored if live is not None and live.final else ""}


def _plain(text: dict[str, Any]) -> str:
    return b"".join(Text.model_validate(text).token_bytes()).decode("utf-8", errors="replace")
