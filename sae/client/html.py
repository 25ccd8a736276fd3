"""The records as HTML, for notebooks.  All text from the server is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae.client.records import Context, Latent, LatentTable, SteeringResult, TextActivations

_CONTEXTS = 8
_TOKENS = 24  # on each side of a context's peak
_ROWS = 20
_COLOUR = "255, 150, 50"  # readable under black and under white text at the shades that are used
_TEXT = "font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; text-align: left"


def latent(one: Latent) -> str:
    """Return a latent: its label, its tokens, its strongest contexts shaded by activation."""
    name = escape(f"{one.sae}/{one.latent}")
    label = f": {escape(one.label.text)}" if one.label.text else ""
    facts = [f"density {one.density:.3g}"] if one.density is not None else []
    facts += [f"maximum {one.max_act:.3g}"] if one.max_act is not None else []
    strongest = [c for c in one.contexts if c.band == 0][:_CONTEXTS]
    rows = "".join(f"<tr><td>{c.act:.2f}</td><td style='{_TEXT}'>{_context(c, one.max_act)}</td></tr>"
                   for c in strongest)
    return (f"<div><strong>{_link(one.url, name)}{label}</strong><br>{escape(', '.join([*facts, *one.flags]))}<br>"
            f"fires on {_tokens(token for token, _, _ in one.fires_on[:8])}<br>"
            f"promotes {_tokens(token for token, _ in one.promotes[:8])}<table>{rows}</table></div>")


def table(one: LatentTable) -> str:
    """Return the first rows of a table."""
    columns = ("latent", "density", "max_act", "mean_act", "flags")
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(_cell(row.get(name)))}</td>" for name in columns) + "</tr>"
                   for row in one.rows[:_ROWS])
    return (f"<div>{escape(one.sae)}: {len(one.rows):,} of {one.total:,} latents, by {escape(one.sort)}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>")


def text(one: TextActivations) -> str:
    """Return a text shaded by the number of its latents, and its ranked latents."""
    top = max((token.l0 for token in one.tokens if not token.special), default=1)
    shown = "".join(_shaded(token.text, token.l0 / max(top, 1), f"L0 {token.l0}")
                    for token in one.tokens if not token.special)
    rows = "".join(f"<tr><td>{row.latent}</td><td>{escape(row.label)}</td><td>{row.max:.2f}</td><td>{row.n}</td></tr>"
                   for row in one.ranked[:_ROWS])
    head = "<tr><th>latent</th><th>label</th><th>maximum</th><th>firings</th></tr>"
    return f"<div><div style='{_TEXT}'>{shown}</div><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def steering(one: SteeringResult) -> str:
    """Return a run's texts side by side, or those of a sweep below each other."""
    head = f"<strong>{_link(one.url, escape(one.id))}</strong>: {escape(one.state)}"
    head += f" ({escape(one.error)})" if one.error else ""
    if one.strengths:
        named = [("unsteered" if s is None else f"{s:g}", written) for s, written in one.strengths.items()]
        body = "".join(f"<tr><th>{name}</th><td style='{_TEXT}'>{escape(written)}</td></tr>" for name, written in named)
    else:
        names = "".join(f"<th>{escape(name)}</th>" for name in one.text)
        cells = "".join(f"<td style='{_TEXT}; vertical-align: top'>{escape(written)}</td>"
                        for written in one.text.values())
        body = f"<tr>{names}</tr><tr>{cells}</tr>"
    prompt = str(one.request.get("prompt") or "")
    return f"<div>{head}<div style='{_TEXT}'>{escape(prompt)}</div><table>{body}</table></div>"


def _context(one: Context, max_act: float | None) -> str:
    first, last = max(0, one.peak - _TOKENS), one.peak + _TOKENS
    pairs = list(zip(one.tokens, one.acts, strict=True))[first:last]
    top = max_act or max((act for _, act in pairs), default=0.0) or 1.0
    return "".join(_shaded(token, act / top, f"{act:.2f}") for token, act in pairs)


def _shaded(token: str, share: float, title: str) -> str:
    if share <= 0:
        return escape(token)
    colour = f"rgba({_COLOUR}, {min(share, 1.0) * 0.8:.2f})"
    return f"<span style='background: {colour}' title='{title}'>{escape(token)}</span>"


def _tokens(tokens: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(token)}</code>" for token in tokens) or "nothing"


def _link(url: str, shown: str) -> str:
    return f"<a href='{escape(url)}'>{shown}</a>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
