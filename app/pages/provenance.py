"""What a page says of how its numbers were made."""

from __future__ import annotations

from typing import Any

from app.db.tables import Sae
from app.render.numbers import compact

ARCHITECTURES = {
    "topk": "TopK", "batch_topk": "BatchTopK", "matryoshka": "Matryoshka BatchTopK", "jumprelu": "JumpReLU",
    "gated": "Gated", "relu": "ReLU"}
NORMALIZATIONS = {
    "none": "input as it is", "dataset": "input scaled by one number", "layer_norm": "input layer-normed",
    "layer_norm_std": "input layer-normed", "constant_norm": "input scaled to one norm",
    "centre": "input centred",
}


def architecture_name(name: str) -> str:
    return ARCHITECTURES.get(name, name)


def provenance_words(sae: Sae, meta: dict[str, Any] | None) -> list[str]:
    """The provenance strip's words: what was measured, on what, under which conventions."""
    k = f", k = {sae.k}" if sae.k else ""
    words = [sae.model, sae.hook, f"{architecture_name(sae.architecture)}, L = {sae.n_latents:,}{k}"]
    if sae.weightless:
        return [*filter(None, words), *_foreign(sae, meta or {})]
    if meta:
        words += [f"{meta['text']}, {compact(meta['tokens'])} tokens", "BOS not counted"]
    words.append(NORMALIZATIONS.get(sae.config.get("normalize", ""), str(sae.config.get("normalize"))))
    if meta:
        words.append(f"build {meta['build_id']}")
    return words


def _foreign(sae: Sae, meta: dict[str, Any]) -> list[str]:
    """What is known of a dashboard that was computed elsewhere."""
    said = [f"computed elsewhere ({sae.config['imported']['format']})"]
    if meta.get("text"):
        said.append(str(meta["text"]))
    if meta.get("tokens"):
        said.append(f"{compact(meta['tokens'])} tokens")
    return [*said, "no weights here"]


def provenance(sae: Sae, meta: dict[str, Any]) -> dict[str, Any]:
    """The same for programs: every number of the JSON it stands in was made so."""
    kept = ("build_id", "model", "site", "architecture", "n_latents", "k", "theta", "normalize", "text",
            "text_fingerprint", "tokens", "contexts", "bos_rule", "weight_processing", "decoder_norm",
            "saescope_version", "command", "imported")
    return {"sae": sae.id, **{key: meta.get(key) for key in kept}}
