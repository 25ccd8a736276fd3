"""Provenance of a page's numbers: what was measured, on what, under which conventions."""

from __future__ import annotations

from collections.abc import Sequence
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

SIMILAR_TRAINING = 1.2  # ratio of training tokens up to which two SAEs are compared without a warning
NAMED_IN_WARNING = 3  # more SAEs are summed up by their range


def architecture_name(name: str) -> str:
    """Return an architecture's usual spelling, such as BatchTopK for batch_topk."""
    return ARCHITECTURES.get(name, name)


def training_tokens(sae: Sae) -> int | None:
    """Return the number of tokens that the SAE was trained on; None where its file does not say."""
    tokens = (sae.config.get("training") or {}).get("tokens")
    return int(tokens) if isinstance(tokens, int | float) and tokens > 0 else None


def training_warning(saes: Sequence[Sae]) -> str:
    """Return a warning where SAEs shown together saw different amounts of text; "" where they did not.

    An SAE that is trained for longer reconstructs better, so its FVU says nothing of its architecture.
    """
    known = {sae.name: tokens for sae in saes if (tokens := training_tokens(sae)) is not None}
    if len(known) < 2 or max(known.values()) <= SIMILAR_TRAINING * min(known.values()):
        return ""
    trained = ", ".join(f"{name} on {compact(tokens)} tokens" for name, tokens in known.items())
    if len(known) > NAMED_IN_WARNING:
        trained = f"on {compact(min(known.values()))} to {compact(max(known.values()))} tokens"
    return f"Trained for different lengths: {trained}. Differences may come from that, not from the architecture."


def first_position(meta: dict[str, Any]) -> str:
    """Return the name of the first position of the contexts of a build, which is not counted."""
    return "first token" if str(meta.get("bos_rule") or "").startswith("no BOS") else "BOS"


def provenance_words(sae: Sae, meta: dict[str, Any] | None) -> list[str]:
    """Return the parts of the provenance strip: what was measured, on what, under which conventions."""
    k = f", k = {sae.k}" if sae.k else ""
    words = [sae.model, sae.hook, f"{architecture_name(sae.architecture)}, L = {sae.n_latents:,}{k}"]
    if sae.is_dashboard:
        return [*filter(None, words), *_foreign(sae, meta or {})]
    if (tokens := training_tokens(sae)) is not None:
        words.append(f"trained on {compact(tokens)} tokens")
    if meta:
        counted = "BOS not counted" if first_position(meta) == "BOS" else "without BOS, first tokens not counted"
        words += [f"indexed on {compact(meta['tokens'])} tokens of {meta['text']}", counted]
    words.append(NORMALIZATIONS.get(sae.config.get("normalize", ""), str(sae.config.get("normalize"))))
    if meta:
        words.append(f"build {meta['build_id']}")
        if sae.current_build and str(meta["build_id"]) < sae.current_build:
            words.append(f"an older build, because {sae.current_build} is damaged")
    return words


def _foreign(sae: Sae, meta: dict[str, Any]) -> list[str]:
    """Return what is known of a dashboard that was computed elsewhere."""
    said = [f"computed elsewhere ({sae.config['imported']['format']})"]
    if meta.get("text"):
        said.append(str(meta["text"]))
    if meta.get("tokens"):
        said.append(f"{compact(meta['tokens'])} tokens")
    return [*said, "no weights here"]


def provenance(sae: Sae, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance for programs: how every number of the JSON around it was made."""
    kept = ("build_id", "model", "site", "architecture", "n_latents", "k", "theta", "normalize", "text",
            "text_fingerprint", "tokens", "contexts", "bos_rule", "weight_processing", "decoder_norm",
            "saescope_version", "command", "imported")
    return {"sae": sae.id, **{key: meta.get(key) for key in kept}}
