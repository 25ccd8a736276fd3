"""The rows of the latent table as HTML.

A page has hundreds of cells, for which templates are too slow.  The parts of a row that its build alone decides are
made once and remembered, because readers sort and filter the same latents again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup, escape

from app.db.tables import Label, Sae
from app.library.explanations import Name
from app.pages.explore.latents_columns import Column
from app.render.context_html import kwic_html
from app.render.latent_words import FLAG_NAMES, FLAG_WORDS, RuleWords, rule_words
from app.render.numbers import NOTHING, density, fixed, number, percent, signed, whole
from app.render.token_text import context_row, token_label, visible
from sae.store.build import Build
from sae.store.recent import Recent
from sae.store.records import LatentRow

_KEPT = 4096  # latents whose parts are remembered, each one or two kilobytes
_ELSEWHERE = (' <span class="muted" title="None of the contexts that are kept has a firing on this token">'
              "strongest context instead:</span>")
_NEVER = '<span class="muted">never fired in this text</span>'


class _Parts(NamedTuple):
    """The HTML of a latent that depends on its build alone."""

    rule: str
    kinds: str
    elsewhere: str  # says that no context which is kept has the wanted token
    snippet: str
    density: str
    top: str


@dataclass(frozen=True)
class Written:
    """What people have added to the latents of a page: labels, names, stars, and measured output scores."""

    labels: Mapping[int, Label]
    names: Mapping[int, Name]
    starred: frozenset[int]
    scores: Mapping[int, float]


def rows_html(
    build: Build, sae: Sae, rows: Sequence[LatentRow], columns: Sequence[Column], token: int | None, written: Written,
    query: str,
) -> Markup:
    """Return the rows of a page; contexts are around `token` if given.  `query` is the query string of their links."""
    remembered = build.kept(_remembered)
    parts = {row.latent: remembered.get((row.latent, token), partial(_parts, build, row, token)) for row in rows}
    classes = [_classes(column) for column in columns]
    card = f"/inspect/card?sae={quote(sae.id)}&amp;latent="

    def lines() -> Iterator[str]:
        for row in rows:
            href = escape(f"/{sae.id}/{row.latent}{query}")
            yield f'<tr data-row data-href="{href}">'
            for column, css in zip(columns, classes, strict=True):
                if column.key == "latent":
                    cell = f'<a href="{href}" data-card="{card}{row.latent}">{row.latent}</a>'
                elif column.key == "text":
                    cell = _words(row.latent, parts[row.latent], written) + parts[row.latent].snippet
                else:
                    cell = _CELLS[column.key](row, column, parts[row.latent], written)
                yield f"<td{css}>{cell}</td>"
            yield "</tr>\n"

    return Markup("".join(lines()))


def _remembered(_: Build) -> Recent[_Parts]:
    return Recent(_KEPT)


def _classes(column: Column) -> str:
    words = [column.css, "col-extra" if column.extra else "", "col-wide" if column.key == "top" else ""]
    return f' class="{" ".join(filter(None, words))}"' if any(words) else ""


def _token(label: str) -> str:
    return f'<span class="tok">{escape(label)}</span>'


def _parts(build: Build, row: LatentRow, token: int | None) -> _Parts:
    context = build.snippets([row.latent], token).get(row.latent)
    info, rule = build.vocabulary, rule_words(row.rule, build.vocabulary)
    elsewhere = token is not None and context is not None and context.tokens[context.peak] != token
    kinds = "".join([f'<span class="flag" title="{escape(FLAG_WORDS[flag])}">{escape(FLAG_NAMES[flag])}</span> '
                     for flag in row.flags])
    text = str(kwic_html(context_row(context, info, row.max_act or context.act, "snippet"))) if context else _NEVER
    top = "".join([_token(token_label(info[one])) + " " for one in row.logit_pos[:3]])
    return _Parts(_rule(rule) if rule and rule.good else "", kinds, _ELSEWHERE if elsewhere else "", text,
                  _density(row), f'<span class="top-logits">{top}</span>')


def _rule(rule: RuleWords) -> str:
    said = f"precision {percent(rule.rule.precision)}, recall {percent(rule.rule.recall)}"
    labels = "".join([" " + _token(label) for label in rule.labels])
    return (f'<span class="muted rule" title="A rule found by counting: {escape(said)} on held-out contexts">'
            f"{escape(rule.words)}{labels}</span>")


def _density(row: LatentRow) -> str:
    said = escape(density(row.density))
    cell = f'<span title="{said} · {whole(row.n_tokens)} firings">{escape(percent(row.density))}</span>'
    if row.density is None:
        return cell
    return (f'{cell} <svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{said}">'
            '<rect class="c-shade" width="100" height="8"/>'
            f'<rect class="c-bar" width="{100 * row.density**0.25:.1f}" height="8"/></svg>')


def _words(latent: int, parts: _Parts, written: Written) -> str:
    """Return what is said about the latent above its context: star, name, rule and kinds."""
    star = '<span title="starred">★</span> ' if latent in written.starred else ""
    label, name = written.labels.get(latent), written.names.get(latent)
    said = ""
    if name and name.kind != "rule":
        text = escape(visible(name.text))
        score = f" ({escape(name.scorer)} {fixed(name.score, 2)})" if name.score is not None else ""
        said = f'<b title="{text}{score}">{text}</b> '
    elif label and label.text:
        text = escape(visible(label.text))
        said = f'<b title="{text}">{text}</b> '
    if not (star or said or parts.rule or parts.kinds or parts.elsewhere):
        return ""
    return (f'<div class="latent-words"><span class="one-line">{star}{said}{parts.rule}{parts.elsewhere}</span>'
            f'<span class="kinds">{parts.kinds}</span></div>')


def _firings(row: LatentRow) -> str:
    share = f' <span class="muted">{escape(percent((row.token_n or 0) / row.n_tokens))}</span>' if row.n_tokens else ""
    return f"{whole(row.token_n)}{share}"


_Cell = Callable[[LatentRow, Column, _Parts, Written], str]
_CELLS: dict[str, _Cell] = {
    "density": lambda row, column, parts, written: parts.density,
    "max": lambda row, column, parts, written: number(row.max_act, 2) if row.n_tokens != 0 else NOTHING,
    "kurtosis": lambda row, column, parts, written: fixed(row.logit_kurtosis, 1),
    "phi": lambda row, column, parts, written: fixed(row.max_phi, 2),
    "score": lambda row, column, parts, written: signed(written.scores.get(row.latent), 3),
    "lift": lambda row, column, parts, written: number(row.token_lift, 1) + ("×" if row.token_lift is not None else ""),
    "firings": lambda row, column, parts, written: _firings(row),
    "logit": lambda row, column, parts, written: signed(row.logit),
    "sorted": lambda row, column, parts, written: fixed(column.number(row), column.digits),
    "top": lambda row, column, parts, written: parts.top,
}
