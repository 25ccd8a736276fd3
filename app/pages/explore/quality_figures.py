"""Figures of a measure's detail, which is plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from app.render import charts
from app.render.axis import tick_text
from app.render.numbers import compact, number, percent

_RULES = {"topk": "TopK(k)", "threshold": "one threshold"}


def figures(detail: dict[str, Any]) -> list[Markup]:
    """Draw the figures that a measure's detail has; what is not understood is left out."""
    drawn = []
    for key, draw in _FIGURES.items():
        if not detail.get(key):
            continue
        try:
            drawn.append(draw(detail))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            continue
    return drawn


def _recovery(detail: dict[str, Any]) -> Markup:
    """Draw FVU over the number of latents per token, which the SAE was not trained for except at its own L0."""
    series = [charts.Series(_RULES.get(rule, rule), [(float(row["k"]), float(row["fvu"])) for row in rows])
              for rule, rows in detail["curves"].items()]
    series = [charts.Series(one.label, [point for point in one.points if point[0] <= _last_k(detail)])
              for one in series]
    markers = [charts.Marker(float(detail["own_k"]), f"L0 = {detail['own_k']}")] if detail.get("own_k") else []
    return charts.line_chart(
        series, title="Progressive recovery", x_label="latents per token", y_label="FVU", width=420, height=220,
        markers=markers, x_format=tick_text, y_format=lambda y: number(y, 4))


def _last_k(detail: dict[str, Any]) -> float:
    """Return where the x axis ends: at 4 times the SAE's own L0, beyond which little happens."""
    return 4.0 * float(detail.get("own_k") or 1 << 30)


def _refinement(detail: dict[str, Any]) -> Markup:
    """Draw how far refinement moves activations, as the distribution of its changes."""
    refinement = detail["refinement"]
    points = [(float(moved), float(share)) for share, moved in
              zip(refinement["shares"], refinement["quantiles"], strict=True)]
    return charts.line_chart(
        [charts.Series("share", points)], title="Refined minus own activations", y_label="share of firings below",
        x_label="change, in units of the mean activation", width=420, height=220, zero=True,
        markers=[charts.Marker(0.0, "no change")], x_format=lambda x: number(x, 3), y_format=percent)


def _l0_histogram(detail: dict[str, Any]) -> Markup:
    """Draw the distribution of L0 as shares of tokens, with the place of BOS marked."""
    rows = detail["l0_histogram"]
    total = sum(int(row["n"]) for row in rows) or 1
    bars = [charts.Bar(float(row["l0"]), float(row["l0"]) + 1, int(row["n"]) / total) for row in rows if row["n"]]
    bos = [row for row in rows if row.get("n_bos")]
    markers = [charts.Marker(float(row["l0"]) + 0.5, f"BOS: {row['l0']} latents") for row in bos[:1]]
    frame = charts.Frame("L0 on held-out text", "active latents", "share of tokens", 420, 220, y_format=percent,
                         y_tick=percent)
    return charts.histogram(bars, frame, markers=markers)


def _cosines(detail: dict[str, Any]) -> Markup:
    """Draw how near the nearest latent of another seed is."""
    counts: Sequence[float] = detail["histogram_of_largest_cosines"]
    bars = [charts.Bar(i / len(counts), (i + 1) / len(counts), float(n)) for i, n in enumerate(counts)]
    frame = charts.Frame("Largest cosine with a latent of another seed", "cosine", "latents", 420, 220,
                         y_format=compact)
    return charts.histogram(bars, frame)


_FIGURES: dict[str, Callable[[dict[str, Any]], Markup]] = {
    "curves": _recovery, "refinement": _refinement, "l0_histogram": _l0_histogram,
    "histogram_of_largest_cosines": _cosines}
