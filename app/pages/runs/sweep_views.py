"""A sweep on its run's page: every SAE as a row, and FVU against L0 for each size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from app.render import charts
from sae.runs.folder import Status
from sae.specs.registry import SweepSpec, TrainSpec
from sae.specs.registry import parse_spec as parse

_SPARK_POINTS = 40
_LINES = 4  # that a chart can tell apart


@dataclass(frozen=True)
class Member:
    """One SAE of a sweep: in training, or `measured` on held-out text."""

    architecture: str
    n_latents: int
    knob: str  # the setting of its sparsity: "k = 32", "λ = 0.01"
    sae: str | None  # its id, once it is saved
    error: str | None
    fvu: float | None
    l0: float | None
    dead: float | None
    delta_ce: float | None
    measured: bool
    curve: Markup  # FVU in training


def members(kind: str, spec: dict[str, Any], rows: Sequence[dict[str, Any]], status: Status | None) -> list[Member]:
    """Return the SAEs of a sweep in the order of its settings; [] for other runs."""
    if kind != "sweep":
        return []
    asked = parse(kind, spec)
    assert isinstance(asked, SweepSpec)
    by_member: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_member[row.get("member", -1)].append(row)
    results = (status.result.get("members") if status else None) or []
    return [
        _member(member, by_member[i], results[i] if i < len(results) else {})
        for i, member in enumerate(asked.members())]


def _member(spec: TrainSpec, rows: list[dict[str, Any]], result: dict[str, Any]) -> Member:
    last: dict[str, Any] = next((row for row in reversed(rows) if row.get("fvu") is not None), {})
    error = result.get("error") or next((row["error"] for row in rows if row.get("error")), None)
    metrics = result.get("metrics") or {}
    said = {"fvu": last.get("fvu"), "l0": last.get("l0"), "dead_fraction": last.get("dead"), **metrics}
    fvus = [float(row["fvu"]) for row in rows if isinstance(row.get("fvu"), int | float)]
    thinned = fvus[:: -(-len(fvus) // _SPARK_POINTS) or 1]
    with_l1 = spec.architecture in ("relu", "gated")
    return Member(
        spec.architecture, spec.n_latents, f"λ = {spec.l1_coefficient:g}" if with_l1 else f"k = {spec.k}",
        result.get("sae"), error, said["fvu"], said["l0"], said["dead_fraction"], said.get("delta_ce"), bool(metrics),
        charts.sparkline(thinned, title="FVU while training", width=90, bars=False))


def trade_offs(shown: Sequence[Member]) -> list[Markup]:
    """Return charts of FVU against L0: one for every size, with a line for every architecture."""
    drawn = []
    for n_latents in dict.fromkeys(member.n_latents for member in shown):
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for member in shown:
            if member.n_latents == n_latents and member.fvu is not None and member.l0 is not None:
                lines[member.architecture].append((member.l0, member.fvu))
        names = list(lines)
        for part in (names[i : i + _LINES] for i in range(0, len(names), _LINES)):
            drawn.append(charts.line_chart(
                [charts.Series(name, sorted(lines[name])) for name in part],
                title=f"L = {n_latents:,}", x_label="L0, latents per token", y_label="FVU",
                x_format=lambda x: f"{x:,.1f}"))
    return drawn
