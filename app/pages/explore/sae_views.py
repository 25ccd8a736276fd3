"""Pictures and lists of an SAE as a whole: cards, plots, places to start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from app.db.tables import Sae
from app.pages.explore.latent_views import TableRow, table_rows
from app.pages.provenance import architecture_name, training_tokens
from app.pages.runs.run_views import all_progress, curves
from app.render import charts
from app.render.numbers import percent, whole
from app.render.zoom import Zoom
from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.store.build import Build
from sae.store.latent_query import ALIVE, Filters
from sae.store.records import DENSE_DENSITY, RARE_TOKENS, L0Count
from sae.workspace.paths import Workspace

# key of sae.json's metrics -> (name, what it is, how it is written)
METRICS: dict[str, tuple[str, str, str]] = {
    "fvu": ("FVU", "fraction of variance unexplained: squared error of the reconstruction over the variance of the "
            "residual stream (also called NMSE); 0 is perfect", "number3"),
    "l0": ("L0, held-out text", "active latents on a token, on average over the held-out tokens; on other text, such "
           "as the index's, it differs somewhat", "number1"),
    "l0_std": ("L0 spread", "standard deviation of L0 over tokens", "number1"),
    "mean_activation": ("Mean activation", "mean over firing latents, in units of a unit-norm decoder", "number3"),
    "delta_ce": ("ΔCE", "how much the language model's loss (nats per token) rises when the residual stream is "
                 "replaced by its reconstruction", "number3"),
    "ce_clean": ("CE without the SAE", "the language model's loss without the SAE, nats per token", "number3"),
    "ce_sae": ("CE with the SAE", "the loss with the reconstruction in place of the activations", "number3"),
    "ce_recovered_zero": ("CE recovered (zero)", "1 − ΔCE over the rise when the stream is set to zero", "percent"),
    "ce_recovered_mean": ("CE recovered (mean)", "1 − ΔCE over the rise when the stream is set to its mean: the "
                          "stricter of the two", "percent"),
    "ce_zero": ("CE at zero", "the loss with the stream set to zero", "number3"),
    "ce_mean": ("CE at the mean", "the loss with the stream set to its mean", "number3"),
    "dead": ("Dead, held-out text", "latents that fired on none of the held-out tokens; on the larger text of the "
             "index some of them fire", "whole"),
    "dead_fraction": ("Dead, share", "dead latents on held-out text as a share of all latents", "percent"),
    "tokens": ("Measured on", "held-out tokens", "whole"),
}


@dataclass(frozen=True)
class Metric:
    """A number of the evaluation with its name, its definition, and how it is to be written."""

    name: str
    definition: str
    value: float
    form: str


@dataclass(frozen=True)
class Start:
    """A list of latents to begin with: its name, why it is shown, and the address of the whole list."""

    name: str
    why: str
    href: str
    latents: list[int]


@dataclass(frozen=True)
class Card:
    """An SAE on the home page.  Without a build there are no samples."""

    sae: Sae
    metrics: dict[str, Any]
    trained: int | None
    sparkline: Markup
    samples: list[TableRow]


def metrics(sae: Sae) -> list[Metric]:
    """Return the SAE's metrics in a fixed order, without those that it does not have."""
    values = sae.config.get("metrics") or {}
    return [Metric(name, said, values[key], form) for key, (name, said, form) in METRICS.items()
            if isinstance(values.get(key), int | float)]


def card(sae: Sae, build: Build | None) -> Card:
    """Return the SAE's card: a sparkline of its latents per token and three latents that are easy to read."""
    values, trained = sae.config.get("metrics") or {}, training_tokens(sae)
    if build is None:
        return Card(sae, values, trained, Markup(""), [])
    counts = {row.l0: row.n for row in build.l0_hist()}
    top = max(counts, default=0)
    line = charts.sparkline(
        _binned([counts.get(i, 0) for i in range(top + 1)], 60), width=180, height=28,
        title=f"latents per token, from 0 to {top}") if counts else Markup("")
    chosen = build.kept(clear_latents)
    rows = {row.latent: row for row in build.some(chosen)}
    return Card(sae, values, trained, line, table_rows(build, [rows[latent] for latent in chosen], {}))


def clear_latents(build: Build, n: int = 3) -> list[int]:
    """Return latents that are easy to read: by their rules, else by single tokens, else any that fire."""
    chosen = _first(build, "rule", True, ALIVE, n)
    if len(chosen) < n:
        chosen += _first(build, "kurtosis", True, "single_token", n) + build.random_latents(n)
    return list(dict.fromkeys(chosen))[:n]


def _binned(values: list[int], most: int) -> list[float]:
    width = -(-len(values) // most)
    return [float(sum(values[i : i + width])) for i in range(0, len(values), width)]


def l0_chart(
    rows: list[L0Count], sae: Sae, bos_l0: int | None, *, others: Sequence[tuple[str, list[L0Count]]] = (),
    width: int = 560, height: int = 240, title: str = "Latents per token", zoom: Zoom | None = None,
    first: str = "BOS",
) -> Markup:
    """Draw the distribution of L0 over counted tokens, with k and the first position named and perhaps other SAEs as
    outlines.
    """
    bars = _shares(rows)
    outlines = [(name, _shares(some)) for name, some in others]
    markers = [charts.Marker(sae.k + 0.5, f"k = {sae.k}")] if sae.k is not None else []
    if bos_l0 is not None:
        markers.append(charts.Marker(bos_l0 + 0.5, f"{first}: {bos_l0} latents"))
    frame = charts.Frame(
        title, "active latents", "share of tokens", width, height, y_format=percent, y_tick=percent,
        y_top=_share_top([bars, *(shares for _, shares in outlines)]))
    return charts.histogram(bars, frame, markers=markers, outlines=outlines, label=l0_label(sae), zoom=zoom)


def _share_top(distributions: Sequence[Sequence[charts.Bar]]) -> float:
    """Return where the axis of shares ends: above the highest bar, unless that would flatten another distribution.

    A TopK SAE is one bar of 100% at k; next to it the distribution of another SAE would be a flat line.
    """
    tops = [max((bar.n for bar in bars), default=1.0) for bars in distributions]
    return 1.25 * (min(tops) if max(tops) > 4 * min(tops) else max(tops))


def l0_label(sae: Sae) -> str:
    """Return an SAE's name for the legend of a chart."""
    return f"{architecture_name(sae.architecture)} ({sae.name})"


def _shares(rows: list[L0Count]) -> list[charts.Bar]:
    """Return bars as shares of the counted tokens, merged where there are very many values."""
    total = sum(row.n for row in rows) or 1
    step = max(1, max(row.l0 for row in rows) // 160 + 1) if rows else 1
    merged: dict[int, int] = {}
    for row in rows:
        merged[row.l0 // step] = merged.get(row.l0 // step, 0) + row.n
    bars = [charts.Bar(0, step, 0)]  # so that the axis begins at 0
    return bars + [
        charts.Bar(i * step, (i + 1) * step, n / total, note=f"{whole(n)} tokens") for i, n in sorted(merged.items())]


def density_chart(build: Build, width: int = 560, height: int = 240) -> Markup:
    """Draw alive latents by density on a log axis, and the dead ones as a separate bar at the left."""
    bins = build.kept(Build.density_histogram)
    counts = build.counts()
    bars = [charts.Bar(low, high, n) for low, high, n in bins]
    shades = []
    if counts["dead"] and bins:
        low = bins[0][0] / 10**0.8
        bars.insert(0, charts.Bar(low, low * 10**0.4, counts["dead"], "alt", "dead"))
        shades.append(charts.Shade(low, low * 10**0.4, "dead"))
    if bins and bins[-1][1] > DENSE_DENSITY:
        shades.append(charts.Shade(DENSE_DENSITY, bins[-1][1], "dense"))
    frame = charts.Frame(
        "Density of latents", "share of tokens on which a latent fires", "latents", width, height, log_x=True)
    return charts.histogram(bars, frame, shades=shades)


def training_rows(sae: Sae, workspace: Workspace) -> list[dict[str, Any]]:
    """Return the curves of the run that made the SAE, in a sweep only its own; [] where the folder is gone."""
    try:
        folder = RunFolder(workspace.run(str(sae.config.get("run") or "")))
    except UserError:
        return []
    status = folder.status()
    made = [member.get("sae") for member in (status.result.get("members") or [] if status else [])]
    member = made.index(sae.id) if sae.id in made else None
    return [row for row in all_progress(folder)
            if row.get("phase", "training") == "training" and row.get("member") == member]


def curve_charts(rows: list[dict[str, Any]]) -> list[Markup]:
    """Draw FVU, L0 and dead latents over the tokens trained on."""
    return curves(rows, first=3, width=300, height=160)


def cosine_chart(build: Build) -> Markup:
    """Draw how near the nearest other decoder direction is; copies of one direction are at the right."""
    bars = [charts.Bar(low, high, n) for low, high, n in build.kept(Build.cosine_histogram)]
    return charts.histogram(bars, charts.Frame(
        "Cosine of the nearest decoder row", "largest cosine with another latent", "latents", 560, 240))


def norm_chart(build: Build) -> Markup:
    """Draw the norms of encoder rows.  Decoder rows have norm 1, so an imported SAE's decoder norms are in here."""
    bars = [charts.Bar(low, high, n) for low, high, n in build.kept(Build.norm_histogram)]
    return charts.histogram(bars, charts.Frame(
        "Norm of the encoder row", "norm, for a decoder row of norm 1", "latents", 560, 240))


def starts(sae: Sae, build: Build, n: int = 5) -> list[Start]:
    """Return lists of latents to begin with: single-token latents, peaked output, dense, rare, and any."""
    return build.kept(_starts, sae.id, n)  # they read several columns of every latent


def _starts(build: Build, sae_id: str, n: int) -> list[Start]:
    base = f"/{sae_id}/latents"
    return [
        Start("Fires on one token", "easiest to read, and to check",
              f"{base}?sort=kurtosis&dir=desc&flag=single_token", _first(build, "kurtosis", True, "single_token", n)),
        Start("Described by a short rule", "a rule found by counting tokens says when it fires",
              f"{base}?sort=rule&dir=desc&flag={ALIVE}", _first(build, "rule", True, ALIVE, n)),
        Start("Sharp effect on the output", "highest logit kurtosis: it promotes few tokens",
              f"{base}?sort=kurtosis&dir=desc&flag={ALIVE}", _first(build, "kurtosis", True, ALIVE, n)),
        Start("Densest", "fires on most tokens; often tracks position or norm", f"{base}?sort=density&dir=desc",
              _first(build, "density", True, ALIVE, n)),
        Start("Rarest", f"fewer than {RARE_TOKENS} firings: too few to trust", f"{base}?sort=density&flag=rare",
              _first(build, "density", False, "rare", n)),
        Start("Random", "any latents that fire", f"/{sae_id}/random", build.random_latents(n, seed=7)),
    ]


def _first(build: Build, sort: str, descending: bool, flag: str, n: int) -> list[int]:
    """Return the first `n` latents with a flag by a sort, without rare ones unless they are asked for."""
    page = build.latents(sort, descending, Filters(frozenset([flag])), limit=4 * n)
    keyed = [row for row in page.rows if getattr(row, {"kurtosis": "logit_kurtosis"}.get(sort, sort)) is not None]
    return [row.latent for row in keyed if flag == "rare" or (row.n_tokens or RARE_TOKENS) >= RARE_TOKENS][:n]
