"""Writer of a build as SAEDashboard's `batch-{i}.json`, 128 latents each.  No torch.

Its viewers expect the groups of a latent in order: first the top contexts, then the bands.
Activations keep their full precision; SAEDashboard itself rounds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sae.formats.histogram_bins import nine
from sae.formats.writers.archive import Member
from sae.formats.writers.dashboard_rows import BLOCK, Exporter
from sae.formats.writers.neuronpedia import source_id
from sae.store.records import Context, Latent


def members(exporter: Exporter) -> Iterator[Member]:
    """Yield `run_settings.json`, `batch-0.json`, `batch-1.json`, …"""
    site, name = exporter.config["site"], source_id(exporter.config)
    yield "run_settings.json", [json.dumps({
        "sae_set": name.partition("-")[2], "sae_path": exporter.config["id"],
        "model_id": exporter.config["model"]["id"], "layer": site["layer"], "hook_name": site["hook"],
        "n_prompts_total": exporter.meta.get("contexts"), "n_tokens_in_prompt": exporter.meta.get("context_length"),
        "n_features_at_a_time": BLOCK, "huggingface_dataset_path": str(exporter.meta.get("text") or ""),
        "saescope": exporter.meta.get("saescope_version")},
        indent=1).encode()]
    for number, start in enumerate(range(0, exporter.build.n_latents, BLOCK)):
        yield f"batch-{number}.json", _batch(exporter, range(start, min(start + BLOCK, exporter.build.n_latents)))


def _batch(exporter: Exporter, latents: range) -> Iterator[bytes]:
    config = exporter.config
    head = {"model_id": config["model"]["id"], "layer": config["site"]["layer"],
            "sae_set": source_id(config).partition("-")[2], "sae_id_suffix": None}
    yield json.dumps(head)[:-1].encode() + b', "features": ['
    between = b""
    for latent, contexts in exporter.rows(latents):
        yield between + json.dumps(feature(exporter, latent, contexts), allow_nan=False).encode()
        between = b",\n"
    yield b"]}\n"


def feature(exporter: Exporter, latent: Latent, contexts: Sequence[Context]) -> dict[str, Any]:
    """Return one entry of a batch's `features`."""
    acts, logits = exporter.activation_bins(latent), exporter.logit_bins(latent)
    return {
        "feature_index": latent.latent,
        **{f"neuron_alignment_{part}": [] for part in ("indices", "values", "l1")},
        **{f"correlated_neurons_{part}": [] for part in ("indices", "l1", "pearson")},
        "correlated_features_indices": [c.latent for c in latent.together],
        "correlated_features_pearson": [nine(c.phi) for c in latent.together], "correlated_features_l1": [],
        **exporter.logit_lists(latent),
        "frac_nonzero": latent.density,
        "freq_hist_data_bar_values": acts.centres if acts else [],
        "freq_hist_data_bar_heights": acts.counts if acts else [],
        "logits_hist_data_bar_heights": logits.counts if logits else [],
        "logits_hist_data_bar_values": logits.centres if logits else [],
        "n_prompts_total": exporter.meta.get("contexts"), "n_tokens_in_prompt": exporter.meta.get("context_length"),
        "dataset": str(exporter.meta.get("text") or ""), "decoder_weights_dist": [],
        "activations": [_activation(exporter, c, contexts) for c in contexts], "vector": []}


def _activation(exporter: Exporter, context: Context, contexts: Sequence[Context]) -> dict[str, Any]:
    low, high, share = exporter.band_range(context, contexts)
    return {
        "bin_min": nine(low), "bin_max": nine(high), "bin_contains": share, "tokens": exporter.texts(context.tokens),
        "values": [nine(v) if v else 0 for v in context.acts], "qualifying_token_index": context.peak}
