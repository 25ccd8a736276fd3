"""An inspection's result put together for its page and its JSON twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.db.tables import Sae
from app.library.sae_reading import beyond_training, reads_bos
from app.pages.inspect.form import DisplayOptions, InspectionQuery
from app.pages.inspect.view import (
    MEASURES,
    ROWS_SHOWN,
    Cell,
    Difference,
    LatentBar,
    Reading,
    TextLatent,
    cells,
    differences,
    ranked,
    snippet_rows,
    text_latents,
    token_bars,
)
from app.render.token_text import Row, signed_class, token_label
from sae.store.build import Build
from sae.store.records import Token


@dataclass(frozen=True)
class Line:
    """A ranked latent: its bar's share, best context, label."""

    found: TextLatent
    value: float
    share: float
    snippet: Row | None
    label: str


@dataclass(frozen=True)
class DifferenceLine:
    """A latent that differs between two texts, with a colour for the sign and size of the difference."""

    found: Difference
    share: float
    css: str
    snippet: Row | None
    label: str


@dataclass(frozen=True)
class TextPanel:
    """One text under one SAE, the side `place` of the page.

    `text` and `of` are the places of text and SAE in the query; `hidden` counts the dense latents that are not shown.
    """

    place: int
    text: int
    of: int
    sae: Sae
    reading: Reading
    cells: list[Cell]
    n_latents: int
    lines: list[Line]
    more: int
    hidden: int

    @property
    def n_counted(self) -> int:
        return self.reading.length()

    @property
    def mean_l0(self) -> float:
        """The mean L0 over the tokens that are not special."""
        l0 = [n for n, special in zip(self.reading.l0, self.reading.special, strict=True) if not special]
        return sum(l0) / max(len(l0), 1)

    @property
    def special_l0(self) -> int | None:
        """The L0 of BOS; None for an SAE that reads a text without it."""
        return self.reading.l0[0] if self.reading.special[0] and reads_bos(self.sae.config) else None

    @property
    def beyond(self) -> int | None:
        """The length of the contexts in the SAE's training, if this text is longer."""
        return beyond_training(self.sae.config, len(self.reading.ids))


@dataclass(frozen=True)
class TokenPanel:
    """The chosen token's latents."""

    side: TextPanel
    position: int
    label: str
    l0: int
    bars: list[LatentBar]


@dataclass(frozen=True)
class Result:
    """Everything that the page shows of an inspection."""

    sides: list[TextPanel]
    differences: list[DifferenceLine] = field(default_factory=list)
    token: TokenPanel | None = None
    colour: TextLatent | None = None


OpenedSAE = Sequence[tuple[Sae, Build, Mapping[int, str]]]  # the SAEs, their builds, labels of latents


def result(asked: InspectionQuery, readings: Sequence[Reading], opened: OpenedSAE, view: DisplayOptions) -> Result:
    """Return the page's parts; `readings` has each text under each SAE, the SAEs changing slowest."""
    places = [(t, s) for s in range(len(asked.saes)) for t in range(len(asked.texts))]
    top = max(max(reading.l0, default=1) for reading in readings)
    found = [text_latents(reading, opened[s][1], view.special)
             for reading, (_, s) in zip(readings, places, strict=True)]
    coloured = min(view.of, len(opened) - 1)  # the SAE of the side that the chosen latent belongs to
    sides = [_side(place, t, s, reading, latents, opened[s], view, top, view.latent if s == coloured else None)
             for place, ((t, s), reading, latents) in enumerate(zip(places, readings, found, strict=True))]
    colour = None
    if view.latent is not None:
        colour = next((row for side, rows in zip(sides, found, strict=True) if side.of == coloured
                       for row in rows if row.latent == view.latent), None)
    return Result(
        sides, _differences(sides, found, opened[0], view) if len(asked.texts) == 2 else [],
        token_panel(sides, opened, view), colour)


def token_panel(sides: Sequence[TextPanel], opened: OpenedSAE, view: DisplayOptions) -> TokenPanel | None:
    """Return the chosen token's latents, or None if no token is chosen or there is no such position."""
    side = sides[view.of] if view.of < len(sides) else sides[0]
    if view.at is None or view.at >= len(side.reading.ids):
        return None
    _, build, labels = opened[side.of]
    token = Token(side.reading.ids[view.at], side.reading.pieces[view.at], False, 0)
    return TokenPanel(
        side, view.at, token_label(token), side.reading.l0[view.at],
        token_bars(side.reading, view.at, build, labels, view.dense))


def _side(
    place: int, text: int, of: int, reading: Reading, latents: Sequence[TextLatent],
    opened: tuple[Sae, Build, Mapping[int, str]], view: DisplayOptions, top_l0: int, chosen: int | None,
) -> TextPanel:
    sae, build, labels = opened
    order = ranked(latents, view.rank, view.dense)
    shown = order if view.all else order[:ROWS_SHOWN]
    snippets = snippet_rows(build, [row.latent for row in shown])
    top = shown[0].value(view.rank) if shown else 0.0
    lines = [Line(row, row.value(view.rank), row.value(view.rank) / (top or 1.0), snippets.get(row.latent),
                  labels.get(row.latent, "")) for row in shown]
    max_act = build.firing_rates.get(chosen, (0.0, 0.0))[1] if chosen is not None else 0.0
    return TextPanel(
        place, text, of, sae, reading, cells(reading, top_l0, chosen, max_act), len(latents), lines,
        more=len(order) - len(shown), hidden=len(latents) - len(order))


def _differences(
    sides: Sequence[TextPanel], found: Sequence[Sequence[TextLatent]], opened: tuple[Sae, Build, Mapping[int, str]],
    view: DisplayOptions,
) -> list[DifferenceLine]:
    _, build, labels = opened
    first, second = (side.reading.length(view.special) for side in sides)
    rows = differences(found[0], found[1], view.rank, (first, second), view.dense)
    rows = [row for row in rows if row.value != 0][: None if view.all else ROWS_SHOWN]
    snippets = snippet_rows(build, [row.latent for row in rows])
    top = abs(rows[0].value) if rows else 1.0
    return [DifferenceLine(row, abs(row.value) / top, signed_class(row.value, top), snippets.get(row.latent),
                           labels.get(row.latent, "")) for row in rows]


def result_json(asked: InspectionQuery, shown: Result, view: DisplayOptions) -> dict[str, Any]:
    """Return the inspection for programs: every token with its L0 and all its latents, and the ranked latents."""
    sides = [{
        "sae": side.sae.id, "build": side.sae.current_build, "text": side.text, "tokens": [
            {"id": i, "text": piece.decode("utf-8", errors="replace"), "special": special, "l0": l0,
             "latents": [[latent, act] for latent, act in row]}
            for i, piece, special, l0, row in zip(side.reading.ids, side.reading.pieces, side.reading.special,
                                                  side.reading.l0, side.reading.firings, strict=True)],
        "mean_l0": side.mean_l0, "longer_than_training_context": side.beyond,
        "latents": [_latent_json(line.found) for line in side.lines]}
        for side in shown.sides]
    return {
        **asked.json(), "rank": view.rank, "measures": MEASURES, "dense_shown": view.dense,
        "special_tokens_counted": view.special, "sides": sides,
        "differences": [{
            "latent": line.found.latent, "difference": line.found.value,
            "first": _latent_json(line.found.first), "second": _latent_json(line.found.second)}
            for line in shown.differences]}


def _latent_json(found: TextLatent | None) -> dict[str, Any] | None:
    return None if found is None else dict(vars(found))
