"""Writer of a latent as the feature JSON of attribution-graph viewers (circuit-tracer).  No torch.

Entry i of `quantile_values` is percentile i + 1 of the latent's activations.  It is read from the histogram of
firings, with each bin represented by its centre.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from sae.formats.histogram_bins import nine
from sae.formats.writers.dashboard_rows import Exporter
from sae.store.records import Context, Latent
from sae.store.schema import TOP_BAND


def feature_json(exporter: Exporter, latent: Latent, contexts: Sequence[Context]) -> dict[str, Any]:
    """Return the content of one latent's file."""
    names = {TOP_BAND: "Top activations"} | {
        band["band"]: str(band["name"]).capitalize() for band in exporter.meta["bands"]}
    quantiles = []
    for band, name in names.items():
        rows = sorted((c for c in contexts if c.band == band), key=lambda c: -c.act)
        if rows:
            quantiles.append({"quantile_name": name, "examples": [_example(exporter, c) for c in rows]})
    bins = exporter.activation_bins(latent)
    return {
        "transcoder_id": exporter.config["id"], "index": latent.latent, "examples_quantiles": quantiles,
        "top_logits": exporter.texts([t for t, _ in latent.logit_pos]),
        "bottom_logits": exporter.texts([t for t, _ in latent.logit_neg]), "act_min": 0,
        "act_max": nine(latent.max_act) if latent.max_act is not None else None,
        "quantile_values": _percentiles(bins.centres, bins.counts) if bins else [],
        "histogram": bins.counts if bins else [], "activation_frequency": latent.density}


def _example(exporter: Exporter, context: Context) -> dict[str, Any]:
    return {
        "tokens": exporter.texts(context.tokens), "tokens_acts_list": [nine(v) if v else 0 for v in context.acts],
        "train_token_ind": context.peak, "is_repeated_datapoint": context.duplicates > 1}


def _percentiles(values: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Return the values below which 1%, 2%, … 99% of the firings are, to the precision of a bin."""
    reached = list(accumulate(counts))
    if not reached or not reached[-1]:
        return []
    return [values[min(bisect_left(reached, share * reached[-1] / 100), len(values) - 1)] for share in range(1, 100)]
