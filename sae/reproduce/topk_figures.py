"""The figures of "Scaling and evaluating sparse autoencoders", drawn from a grid's results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sae.evaluation.scaling_law import Law
from sae.reproduce.figures import Figure, Line
from sae.reproduce.results import Results, Row, Spread
from sae.reproduce.setup import Setup

_KINDS = (("topk", "TopK"), ("multi_topk", "Multi-TopK"), ("jumprelu", "JumpReLU"), ("relu", "ReLU"),
          ("gated", "gated"))


def figures(results: Results, setup: Setup, law: Law | None, lambdas: Sequence[float]) -> list[Figure]:
    """Return L(n, k), its predictions, the frontiers of the architectures, refinement and progressive recovery."""
    return [*_law(results, setup, law), *_frontiers(results, setup, lambdas), _refinement(results, setup, lambdas),
            _recovery(results, setup, lambdas)]


def _law(results: Results, setup: Setup, law: Law | None) -> list[Figure]:
    lines = [Line(f"k = {k}", tuple(
        (n, s) for n in setup.sizes if (s := results.spread("topk", "fvu", n_latents=n, k=k))), joined=law is None)
        for k in setup.ks]
    if law is not None:
        ns = np.geomspace(min(setup.sizes), max(setup.sizes), 13)
        lines += [Line(f"L(n, {k})", tuple((float(n), Spread(law.predict(n, k), 0)) for n in ns), dashed=True,
                       marked=False, colour=i) for i, k in enumerate(setup.ks)]
    out = [Figure("The scaling law L(n, k)", "TopK. Points are means over seeds with 95% intervals; dashed lines are "
                  "the fitted law.", "latents n", "NMSE", tuple(lines), log_x=True, log_y=True)]
    if law is not None:
        points = [(law.predict(n, k), s) for n in setup.sizes for k in setup.ks
                  if (s := results.spread("topk", "fvu", n_latents=n, k=k))]
        ends = [min(x for x, _ in points), max(x for x, _ in points)]
        out.append(Figure(
            "Predicted against measured", "Every SAE of the grid; on the dashed line both are equal.",
            "NMSE by L(n, k)", "NMSE measured", (
                Line("SAEs", tuple(points), joined=False),
                Line("equal", tuple((x, Spread(x, 0)) for x in ends), dashed=True, marked=False)),
            log_x=True, log_y=True))
    return out


def _knobs(kind: str, setup: Setup, lambdas: Sequence[float]) -> list[dict[str, float]]:
    if kind in ("relu", "gated"):
        return [{"l1_coefficient": value} for value in lambdas]
    return [{"k": k} for k in setup.ks]


def _frontiers(results: Results, setup: Setup, lambdas: Sequence[float]) -> list[Figure]:
    out = []
    for key, label in (("fvu", "NMSE"), ("delta_ce", "ΔCE (nats)")):
        lines = []
        for kind, name in _KINDS:
            cells = [{"n_latents": setup.size, **knob} for knob in _knobs(kind, setup, lambdas)]
            pairs = [(results.spread(kind, "l0", **cell), results.spread(kind, key, **cell)) for cell in cells]
            lines.append(Line(name, tuple((x.mean, y) for x, y in pairs if x and y)))
        out.append(Figure(f"Figures 2 and 5: {label} against L0", f"L = {setup.size:,}.", "L0 on held-out text", label,
                          tuple(lines), log_x=True))
    return out


def _detailed(results: Results, setup: Setup, lambdas: Sequence[float]) -> list[tuple[str, dict[int, Row]]]:
    """Return the rows with refinement and recovery: TopK, Multi-TopK, and the ReLU SAE whose L0 is nearest to k."""
    relu = [results.of("relu", n_latents=setup.size, l1_coefficient=value) for value in lambdas]
    relu = [rows for rows in relu if rows]
    nearest = min(relu, key=lambda rows: abs(Spread.of(row["l0"] for row in rows.values()).mean - setup.k), default={})
    both = [(name, results.of(kind, n_latents=setup.size, k=setup.k)) for kind, name in _KINDS[:2]]
    return [(name, rows) for name, rows in [*both, ("ReLU", nearest)] if rows]


def _refinement(results: Results, setup: Setup, lambdas: Sequence[float]) -> Figure:
    lines = []
    for name, rows in _detailed(results, setup, lambdas):
        shares = list(next(iter(rows.values()))["refinement"]["quantiles"])
        lines.append(Line(name, tuple(
            (100 * float(share), Spread.of(row["refinement"]["quantiles"][share] for row in rows.values()))
            for share in shares)))
    return Figure("Figure 9: refinement of activations", "Quantiles of refined minus own activations; a line above 0 "
                  "at 50% means that the SAE's activations are too small.", "quantile (%)",
                  "f* − f, in mean activations", tuple(lines))


def _recovery(results: Results, setup: Setup, lambdas: Sequence[float]) -> Figure:
    lines = []
    for i, (name, rows) in enumerate(_detailed(results, setup, lambdas)):
        for rule, words in (("topk", "TopK(k')"), ("threshold", "threshold")):
            ks = list(next(iter(rows.values()))["recovery"][rule])
            lines.append(Line(f"{name}, {words}", tuple(
                (int(k), Spread.of(row["recovery"][rule][k] for row in rows.values())) for k in ks),
                dashed=rule == "threshold", colour=i))
    return Figure("Figure 10: progressive recovery", f"NMSE if k' latents per token are kept at test time, exactly or "
                  f"on average by one threshold; trained with k = {setup.k}, ReLU with the λ nearest to it.",
                  "k'", "NMSE", tuple(lines), log_x=True, log_y=True)
