"""Writer of a build as a Neuronpedia export tree, and of a latent in the shape of Neuronpedia's API.  No torch.

    v1/{model}/{source}/{release,model,sourceset,source}.jsonl
    v1/{model}/{source}/{features,activations,explanations}/batch-N.jsonl.gz   1,024 latents per batch

The keys are the columns of Neuronpedia's database.  Importers take them from a file's first line, so every
line has all keys.  Feature and activation lines have the extra key `saescope`, which Neuronpedia's importer
ignores.  It holds facts without a column of their own, so that our own import restores the same pages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae.errors import UserError
from sae.formats.foreign_names import CREATOR
from sae.formats.histogram_bins import nine
from sae.formats.writers.archive import Member, gzipped
from sae.formats.writers.dashboard_rows import Exporter
from sae.formats.writers.saelens import saelens_config
from sae.store.records import Context, Latent, TokenFirings

BATCH = 1024
# Numbers of a latent that only the extra key `saescope` holds.
SCALARS = ("n_tokens", "n_contexts", "density", "mean_act", "std_act", "mean_position", "logit_std", "logit_skew",
           "logit_kurtosis", "encoder_norm", "encoder_decoder_cos", "mean_l0")


@dataclass(frozen=True)
class Explanation:
    """An explanation of a latent, with its author, and the type and model of the way it was made."""

    text: str
    author: str = ""
    type_name: str = ""
    model: str = ""


def source_id(config: Mapping[str, Any]) -> str:
    """Return `{layer}-{set}`: the SAE's name, prefixed with its layer unless the name begins with the layer."""
    layer, name = config["site"]["layer"], str(config["id"]).rpartition("/")[2]
    return name if name.startswith(f"{layer}-") else f"{layer}-{name}"


def members(exporter: Exporter, labels: Mapping[int, Sequence[Explanation]] | None = None) -> Iterator[Member]:
    """Yield every file of the tree."""
    labels = labels or {}
    model, source = str(exporter.config["model"]["id"]), source_id(exporter.config)
    root = f"v1/{model}/{source}"
    for name, line in _heads(exporter, model, source).items():
        yield f"{root}/{name}.jsonl", [_line(line)]
    for number, start in enumerate(range(0, exporter.build.n_latents, BATCH)):
        batch = range(start, min(start + BATCH, exporter.build.n_latents))
        yield f"{root}/features/batch-{number}.jsonl.gz", gzipped(
            _line(feature_row(exporter, latent))
            for latent, _ in exporter.build.records(batch.start, batch.stop, with_contexts=False))
        yield f"{root}/activations/batch-{number}.jsonl.gz", gzipped(
            b"".join(_line(row) for row in activation_rows(exporter, contexts))
            for _, contexts in exporter.rows(batch))
        lines = [_line(_explanation(model, source, i, number, one)) for i in batch
                 for number, one in enumerate(labels.get(i, ())) if one.text]
        if lines:
            yield f"{root}/explanations/batch-{number}.jsonl.gz", gzipped(lines)


def feature_json(exporter: Exporter, latent: Latent, contexts: Sequence[Context], explanations: Sequence[Explanation],
                 ) -> dict[str, Any]:
    """Return the answer of `GET /api/feature/{model}/{source}/{index}`: row, activations, explanations, source."""
    model, source = str(exporter.config["model"]["id"]), source_id(exporter.config)
    explained = [_explanation(model, source, latent.latent, number, one) for number, one in enumerate(explanations)]
    return feature_row(exporter, latent) | {
        "activations": list(activation_rows(exporter, contexts)), "explanations": explained,
        "source": _heads(exporter, model, source)["source"], "comments": [], "lists": []}


def feature_row(exporter: Exporter, latent: Latent) -> dict[str, Any]:
    """Return a line of `features`."""
    config, acts, logits = exporter.config, exporter.activation_bins(latent), exporter.logit_bins(latent)
    source = source_id(config)
    return {
        "modelId": config["model"]["id"], "layer": source, "index": str(latent.latent), "creatorId": CREATOR,
        "createdAt": _moment(exporter), "maxActApprox": _nine(latent.max_act), "hasVector": False, "vector": [],
        "vectorLabel": None, "vectorDefaultSteerStrength": _nine(latent.max_act),
        "hookName": config["site"].get("out_hook") or config["site"]["hook"],
        "topkCosSimIndices": [i for i, _ in latent.neighbours],
        "topkCosSimValues": [nine(cosine) for _, cosine in latent.neighbours],
        "sourceSetName": source.partition("-")[2],
        **{f"neuron_alignment_{part}": [] for part in ("indices", "values", "l1")},
        **{f"correlated_neurons_{part}": [] for part in ("indices", "pearson", "l1")},
        "correlated_features_indices": [c.latent for c in latent.together],
        "correlated_features_pearson": [nine(c.phi) for c in latent.together], "correlated_features_l1": [],
        **exporter.logit_lists(latent),
        "frac_nonzero": latent.density,
        "freq_hist_data_bar_heights": acts.counts if acts else [],
        "freq_hist_data_bar_values": acts.centres if acts else [],
        "logits_hist_data_bar_heights": logits.counts if logits else [],
        "logits_hist_data_bar_values": logits.centres if logits else [],
        "decoder_weights_dist": [], "saescope": _extra(exporter, latent)}


def _extra(exporter: Exporter, latent: Latent) -> dict[str, Any]:
    def firings(listed: Iterable[TokenFirings]) -> list[list[Any]]:
        listed = list(listed)
        texts = exporter.texts([f.token for f in listed])
        return [[text, f.n, _nine(f.lift), _nine(f.max_act)] for text, f in zip(texts, listed, strict=True)]

    return {
        **{name: getattr(latent, name) for name in SCALARS}, "flags": list(latent.flags),
        "top_tokens": firings(latent.top_tokens), "next_tokens": firings(latent.next_tokens)}


def activation_rows(exporter: Exporter, contexts: Sequence[Context]) -> Iterator[dict[str, Any]]:
    """Yield the lines of `activations` for one latent's contexts."""
    model, source, created = exporter.config["model"]["id"], source_id(exporter.config), _moment(exporter)
    for c in contexts:
        low, high, share = exporter.band_range(c, contexts)
        values = [nine(v) if v else 0 for v in c.acts]
        top = max(range(len(values)), key=values.__getitem__)
        yield {
            "id": f"{exporter.build.id}-{c.latent}-{c.band}-{c.rank}", "modelId": model, "layer": source,
            "source": source, "index": str(c.latent), "creatorId": CREATOR, "createdAt": created,
            "tokens": exporter.texts(c.tokens),
            "dataIndex": str(c.ctx), "values": values, "maxValue": values[top], "maxValueTokenIndex": top,
            "minValue": min(values), "dataSource": str(exporter.meta.get("text") or ""), "dfaValues": [],
            "dfaTargetIndex": None, "dfaMaxValue": None, "lossValues": [], "logitContributions": None,
            "binMin": nine(low), "binMax": nine(high), "binContains": share, "qualifyingTokenIndex": c.peak,
            "zIndices": [], "zValues": [],
            "saescope": {"band": c.band, "ctx": c.ctx, "start": c.start, "document": c.document,
                         "doc_offset": c.doc_offset, "duplicates": c.duplicates}}


def _explanation(model: str, source: str, latent: int, number: int, one: Explanation) -> dict[str, Any]:
    return {
        "id": f"{model}-{source}-{latent}" + (f"-{number}" if number else ""), "modelId": model, "layer": source,
        "index": str(latent), "description": one.text, "authorId": one.author or CREATOR,
        "typeName": one.type_name or None, "explanationModelName": one.model or None, "embedding": None,
        "source": source}


def _heads(exporter: Exporter, model: str, source: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the one-line files.

    Importers reject unknown keys in them, so our own metadata is in `saelensConfig.metadata`.
    """
    config, meta, name = exporter.config, exporter.meta, source.partition("-")[2]
    note = f"Made by saescope {meta.get('saescope_version')}: {meta.get('command')}"
    return {
        "release": {
            "name": name, "description": note, "descriptionShort": name, "creatorName": CREATOR,
            "creatorNameShort": CREATOR, "creatorId": CREATOR, "urls": [], "featured": False,
            "defaultSourceSetName": name, "defaultSourceId": source, "defaultUmapSourceIds": [],
            "visibility": "PRIVATE"},
        "model": {
            "id": model, "displayName": config["model"]["name"], "displayNameShort": model, "instruct": False,
            "layers": None, "neuronsPerLayer": 0, "dimension": config.get("d_model"), "owner": "", "tlensId": None,
            "website": None, "visibility": "PRIVATE"},
        "sourceset": {
            "modelId": model, "name": name, "description": note, "type": str(config["architecture"]),
            "creatorName": CREATOR, "creatorId": CREATOR, "urls": [], "releaseName": name, "defaultRange": 1,
            "defaultShowBreaks": True, "showDfa": False, "showCorrelated": False, "showHeadAttribution": False,
            "showUmap": False, "visibility": "PRIVATE"},
        "source": {
            "id": source, "modelId": model, "setName": name, "creatorId": CREATOR, "hasDashboards": True,
            "inferenceEnabled": False, "saelensConfig": _saelens(config, meta), "saelensRelease": None,
            "saelensSaeId": None, "hfRepoId": None, "hfFolderId": None, "visibility": "PRIVATE", "hasUmap": False,
            "hasUmapLogSparsity": False, "hasUmapClusters": False, "num_prompts": meta.get("contexts"),
            "num_tokens_in_prompt": meta.get("context_length"), "dataset": str(meta.get("text") or ""), "notes": note,
            "createdAt": _moment(exporter)}}


def _saelens(config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
        cfg = saelens_config(config)
    except (UserError, KeyError):  # SAELens cannot express the SAE, or it has no weights
        cfg = {"d_sae": config["n_latents"], "metadata": {"hook_name": config["site"]["hook"]}}
    dropped = ("duckdb_version", "build_id", "sae_id")
    cfg["metadata"]["saescope_build"] = {key: value for key, value in meta.items() if key not in dropped}
    return cfg


def _moment(exporter: Exporter) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(exporter.meta.get("created") or 0))


def _nine(value: float | None) -> float | None:
    return None if value is None else nine(value)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"
