"""The parts of the latent table and of a latent's page, made from the store's records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from app.db.tables import Label
from app.library.explanations import Name
from app.render import charts
from app.render.axis import edge_text
from app.render.latent_words import RuleWords, rule_words
from app.render.numbers import number, percent
from app.render.token_text import Row, context_row, signed_class, token_label
from app.render.zoom import Zoom
from sae.formats.histogram_bins import log_spaced
from sae.store.build import Build
from sae.store.records import Context, Latent, LatentRow, Token
from sae.store.schema import NEAR_BAND, TOP_BAND

TOKENS_LISTED = 10
CONTEXTS_SHOWN = 20  # of each band, until the reader asks for more


@dataclass(frozen=True)
class TableRow:
    """A line of a short list of latents: numbers, a context, tokens whose logit it raises most, label and rule."""

    row: LatentRow
    snippet: Row | None
    top_logits: list[str]
    label: Label | None
    rule: RuleWords | None  # where it is good enough for a list
    name: Name | None = None  # the chosen or best explanation, if it is not the rule of the build


@dataclass(frozen=True)
class TokenLine:
    """A token in a list with its number, a second number, and a colour class for the first."""

    token: int
    label: str
    value: float | None
    n: int = 0
    css: str = ""


@dataclass(frozen=True)
class Band:
    """Contexts from one interval of a latent's firing activations; `values` says which.  `total` are kept."""

    key: int
    name: str
    values: str
    rows: list[Row]
    total: int


def table_rows(
    build: Build, rows: Sequence[LatentRow], labels: Mapping[int, Label], names: Mapping[int, Name] | None = None,
) -> list[TableRow]:
    """Return the rows of a short list with what each shows besides its numbers."""
    snippets = build.snippets(row.latent for row in rows)
    info = build.vocabulary

    def table_row(row: LatentRow) -> TableRow:
        rule = rule_words(row.rule, info)
        return TableRow(
            row, snippet(snippets.get(row.latent), info, row.max_act),
            [token_label(info[t]) for t in row.logit_pos[:3]], labels.get(row.latent),
            rule if rule and rule.good else None, (names or {}).get(row.latent))

    return [table_row(row) for row in rows]


def snippet(context: Context | None, info: Mapping[int, Token], top: float | None = None) -> Row | None:
    """Cut a context to a few tokens around its peak, coloured in units of `top` (None: its own peak)."""
    return context_row(context, info, top or context.act, "snippet") if context is not None else None


def bands(build: Build, latent: Latent, window: str, most: int = CONTEXTS_SHOWN) -> list[Band]:
    """Return the top contexts, then band after band, at most `most` of each, in units of the latent's maximum."""
    contexts = build.windows(latent.latent) if window == "short" else build.contexts(latent.latent)
    info = build.vocabulary
    names = {TOP_BAND: ("Top contexts", "strongest, one per distinct context")}
    names |= {band["band"]: (str(band["name"]).capitalize(), _interval(band)) for band in build.meta["bands"]}
    if build.meta.get("near"):
        names[NEAR_BAND] = ("Near misses", f"within {percent(build.meta['near'])} of the threshold but not firing "
                                           "(pre-activations shown)")
    out = []
    for key, (name, said) in names.items():
        inside = [context for context in contexts if context.band == key]
        if key != TOP_BAND:
            inside.sort(key=lambda context: -context.act)
        if inside:
            acts = [context.act for context in inside]
            rows = [context_row(context, info, latent.max_act or 0.0, window) for context in inside[:most]]
            values = f"{said} · {number(min(acts))} to {number(max(acts))}"
            out.append(Band(key, name, values, rows, len(inside)))
    return out


@dataclass(frozen=True)
class Bin:
    """A bin of the activation histogram: its interval, its firings, and the stored contexts that peak in it."""

    number: int
    values: str
    firings: int
    rows: list[Row]


def bin_contexts(build: Build, latent: Latent, window: str, number: int | None) -> Bin | None:
    """Return a bin with the stored contexts that peak in it, strongest first; None where there is no such bin.

    The first bin is open below, and the last one above.
    """
    edges, hist = activation_edges(latent, build.meta), latent.hist or []
    if number is None or number >= len(hist) or number + 1 >= len(edges):
        return None
    low = -math.inf if number == 0 else edges[number]
    high = math.inf if number + 2 == len(edges) else edges[number + 1]
    contexts = build.windows(latent.latent) if window == "short" else build.contexts(latent.latent)
    inside = [one for one in contexts if one.band != NEAR_BAND and low <= one.act < high]
    rows = [context_row(one, build.vocabulary, latent.max_act or 0.0, window)
            for one in sorted(inside, key=lambda one: -one.act)]
    return Bin(number, f"{edge_text(edges[number])} to {edge_text(edges[number + 1])}", hist[number], rows)


def _interval(band: Mapping[str, Any]) -> str:
    if band["q_low"] is None:
        return "drawn from one interval of its values"
    return f"q {band['q_low'] * 100:.0f}–{band['q_high'] * 100:.0f} of its firings"


def activation_chart(
    latent: Latent, meta: Mapping[str, Any], zoom: Zoom | None = None, marked: float | None = None,
    bin_href: Callable[[int], str] | None = None, chosen: int | None = None,
) -> Markup:
    """Draw the histogram of its firing activations, in log-spaced bins (imported: the file's bins), with band limits.

    Empty ends are cut off.  `marked` is an activation on another text.  `bin_href` gives the address to which a bar
    leads, and `chosen` is the bin whose contexts are shown.
    """
    edges = activation_edges(latent, meta)
    if not latent.hist or len(edges) < 2:
        return Markup("")
    log = log_spaced(edges)
    total = latent.n_tokens or sum(latent.hist)
    filled = [i for i, n in enumerate(latent.hist) if n]
    first, last = (max(filled[0] - 1, 0), filled[-1] + 2) if filled else (0, 0)
    bars = []
    for i, n in enumerate(latent.hist[first:last], first):
        if i + 1 < len(edges):
            bars.append(charts.Bar(
                edges[i], edges[i + 1], n, "accent" if i == chosen else "", f"{percent(n / total)} of firings",
                bin_href(i) if bin_href else ""))
    frame = charts.Frame("Activations", "activation (log bins)" if log else "activation", "tokens", 500, 170, log)
    return charts.histogram(
        bars, frame, markers=[*_band_markers(latent, meta, edges),
                              *([charts.Marker(marked, "your text")] if marked else [])], zoom=zoom)


def activation_edges(latent: Latent, meta: Mapping[str, Any]) -> list[float]:
    """Return the edges of the bins of its activations, one more than there are bins; [] where they are not known."""
    return latent.hist_edges or [float(edge) for edge in [meta["hist_low"], *(meta["hist_edges"] or [])] if edge]


def _band_markers(latent: Latent, meta: Mapping[str, Any], edges: Sequence[float]) -> list[charts.Marker]:
    """Return the limits of the bands.  A bin is in the band of the quantile at its middle, so limits are edges."""
    total, below, limits = sum(latent.hist or ()), 0, dict[float, str]()
    quantiles = sorted({q for band in meta.get("bands") or () for q in (band["q_low"], band["q_high"]) if q})
    for i, n in enumerate(latent.hist or ()):
        middle = (below + n / 2) / (total or 1)
        while n and quantiles and middle >= quantiles[0]:
            label = f"q{100 * quantiles.pop(0):.0f}"
            if below:  # of several limits at one edge, the highest is named
                limits[edges[i]] = label
        below += n
    return [charts.Marker(x, label) for x, label in limits.items()]


def logit_chart(latent: Latent, meta: Mapping[str, Any], zoom: Zoom | None = None) -> Markup:
    """Draw the histogram of the latent's effect on the logits of the vocabulary."""
    edges = latent.logit_edges or meta["logit_edges"]
    if not latent.logit_hist or not edges:
        return Markup("")
    bars = [
        charts.Bar(edges[i], edges[i + 1], n, "blue" if edges[i] >= 0 else "orange")
        for i, n in enumerate(latent.logit_hist)]
    filled = [i for i, bar in enumerate(bars) if bar.n]
    bars = bars[max(filled[0] - 1, 0) : filled[-1] + 2] if filled else []
    frame = charts.Frame("Logit effects", "change of a token's logit", "tokens", 500, 150, log_y=True)
    return charts.histogram(bars, frame, zoom=zoom)


def logit_lines(build: Build, latent: Latent) -> tuple[list[TokenLine], list[TokenLine]]:
    """Return the tokens whose logits it raises most, and those whose logits it lowers most."""
    adds, removes = latent.logit_pos[:TOKENS_LISTED], latent.logit_neg[:TOKENS_LISTED]
    info = build.vocabulary
    top = max((abs(v) for _, v in [*adds, *removes]), default=0.0)

    def lines(pairs: Sequence[tuple[int, float]]) -> list[TokenLine]:
        return [TokenLine(t, token_label(info[t]), v, css=signed_class(v, top)) for t, v in pairs]

    return lines(adds), lines(removes)


def firing_lines(build: Build, latent: Latent) -> tuple[list[TokenLine], list[TokenLine]]:
    """Return the tokens it fires on and the tokens that follow, by count; the value is the lift."""
    info = build.vocabulary
    here, after = ([
        TokenLine(f.token, token_label(info[f.token]), f.lift, f.n) for f in firings[:TOKENS_LISTED]]
        for firings in (latent.top_tokens, latent.next_tokens))
    return here, after
