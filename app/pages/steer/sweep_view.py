"""A sweep as its page shows it: one row for each strength, with the measures that make the usable range visible."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from app.pages.steer.form import Chip
from app.pages.steer.run_view import RunView, pieces
from app.pages.steer.sweep_strengths import baseline, usable
from app.render import charts
from app.render.axis import tick_text
from app.render.token_text import Piece
from app.worker.protocol import Cell
from sae.steering.measurement_requests import SweepRequest


@dataclass(frozen=True)
class SweepRow:
    """One strength: `key` names its text, `strength` None means unsteered.

    `ratio` is the norm ratio of the form; `error` says why the text was not written to its end.
    """

    key: str
    strength: float | None
    coefficient: float | None
    ratio: float | None
    level: str
    text: list[Piece]
    concept: float | None
    repetition: float | None
    perplexity: float | None
    usable: bool
    error: str | None


def sweep_rows(run: RunView) -> list[SweepRow]:
    """Return the rows by strength, the unsteered one first; they have no measures before the run ends."""
    sweep = run.sweep
    assert sweep is not None
    cells = {str(number): cell for number, cell in enumerate(run.cells)} or _growing(run, sweep)
    plain = baseline(list(cells.values()), sweep.request.interventions[sweep.place].mode) if cells else None
    return [_row(run, sweep, key, cell, plain) for key, cell in cells.items()]


def _growing(run: RunView, sweep: SweepRequest) -> dict[str, Cell]:
    """Return the texts as far as they are written, by their names."""
    strengths: list[float | None] = [None, *sweep.strengths]
    return {str(n): Cell(strength=s, text=run.growing[str(n)], concept=None, repetition=None, perplexity=None)
            for n, s in enumerate(strengths) if str(n) in run.growing}


def _row(run: RunView, sweep: SweepRequest, key: str, cell: Cell, plain: Cell | None) -> SweepRow:
    i = sweep.request.interventions[sweep.place]
    chip = Chip(i.sae, str(i.latent), i.mode, strength=str(cell.strength), facts=run.facts.get(i.sae),
                max_act=i.max_act)
    pushed = cell.strength is not None and i.mode != "scale"
    return SweepRow(
        key, cell.strength, chip.coefficient("strength") if pushed else None,
        chip.ratio("strength") if pushed and chip.unit_ratio else None, chip.level("strength") if pushed else "",
        pieces(run.request, cell.text, run.start, run.by), cell.concept, cell.repetition, cell.perplexity,
        plain is not None and usable(cell, plain), cell.error)


def sweep_charts(run: RunView) -> list[Markup]:
    """Draw concept, repetition and perplexity over strength; the unsteered text is at the neutral strength."""
    if run.sweep is None or not run.cells:
        return []
    mode = run.sweep.request.interventions[run.sweep.place].mode
    neutral = {"add": 0.0, "scale": 1.0}.get(mode)
    points = sorted(
        ((cell.strength if cell.strength is not None else neutral, cell) for cell in run.cells
         if cell.strength is not None or neutral is not None), key=lambda point: float(point[0] or 0.0))
    shares = [
        charts.Series(name, [(float(x or 0.0), value) for x, cell in points
                             if (value := getattr(cell, attribute)) is not None])
        for name, attribute in (("concept's tokens", "concept"), ("repetition", "repetition"))]
    perplexity = charts.Series("perplexity", [
        (float(x or 0.0), cell.perplexity) for x, cell in points if cell.perplexity is not None])
    unit = "factor" if mode == "scale" else "strength, × max"
    common = {"x_label": unit, "x_format": tick_text, "width": 460, "height": 190}
    return [
        charts.line_chart(shares, title="Share of the tokens", zero=True, **common),  # type: ignore[arg-type]
        charts.line_chart([perplexity], title="Perplexity under the unsteered model", log_y=True,
                          **common)]  # type: ignore[arg-type]
