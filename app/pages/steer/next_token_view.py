"""Next-token tables and KL along a steered text."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from app.pages.steer.run_view import TITLES, RunView
from app.render import charts
from app.render.axis import tick_text
from app.render.numbers import minus
from app.render.token_text import signed_class, token_label
from app.worker.protocol import NextTokens, ReadOut, Text
from sae.steering.measurement_requests import ReadoutRequest
from sae.steering.request import SteerRequest
from sae.store.records import Token

TOP = 10


@dataclass(frozen=True)
class NextRow:
    """One possible next token: its probabilities, their difference, and whether it was sampled."""

    label: str
    baseline: float
    steered: float
    css: str
    came: bool

    @property
    def difference(self) -> float:
        return self.steered - self.baseline

    @property
    def points(self) -> str:
        """The difference in percentage points; what rounds to zero has no sign."""
        text = f"{100 * self.difference:+.1f}"
        return "0.0" if float(text) == 0 else minus(text)


@dataclass(frozen=True)
class NextTable:
    """Next-token probabilities at one position; `kl` is in nats, `came` is the token that was sampled there."""

    position: int
    rows: list[NextRow]
    kl: float
    came: str | None


def readout_request(request: SteerRequest, prompt: Text, output: Text, position: int) -> ReadoutRequest:
    """Return the request for the probabilities at a token's position and at the one after it."""
    ids = (*prompt.ids, *output.ids)
    return ReadoutRequest(
        request=request, ids=ids, prompt_tokens=len(prompt.ids), top=TOP,
        positions=tuple(p for p in (position - 1, position) if 0 <= p < len(ids)))


def next_tables(answer: ReadOut) -> list[NextTable]:
    """Return the tables of an answer, in the order of their positions."""
    return [_table(answer, table) for table in answer.tables]


def _table(answer: ReadOut, table: NextTokens) -> NextTable:
    at = table.position + 1  # the table of a position predicts the token at the next one
    came = answer.ids[at] if at < len(answer.ids) else None
    rows = []
    for row in table.rows:
        token = Token(row.id, row.piece.encode("latin-1"), False, 0)
        rows.append(NextRow(token_label(token), row.baseline, row.steered,
                            signed_class(row.steered - row.baseline, 1.0), row.id == came))
    label = None
    if came is not None:
        label = token_label(Token(came, answer.pieces[at].encode("latin-1"), False, 0))
    return NextTable(at, rows, answer.kl[table.position], label)


def kl_chart(run: RunView) -> Markup | None:
    """Draw the KL of each steered column along its output; None if there is none yet."""
    series = [
        charts.Series(column.title + (f" {column.sample + 1}" if run.request.samples > 1 else ""),
                      [(column.start + i, kl) for i, kl in enumerate(column.kl)])
        for column in run.columns if column.name != "baseline" and column.kl]
    if not any(len(one.points) > 1 for one in series):
        return None
    return charts.line_chart(
        series[:8], title="KL to the unsteered model, per token", x_label="position", y_label="nats",
        zero=True, width=860, height=170, x_format=tick_text)


def title_of(name: str) -> str:
    """Return the title of a column."""
    return TITLES.get(name.partition(".")[0], name)
