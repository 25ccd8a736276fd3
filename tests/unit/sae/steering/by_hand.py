"""Steering by plain hooks: a reference that uses nothing of sae.autoencoder.artefact or sae.steering.interventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sae.lm.bridge import LanguageModel
from sae.steering.request import Intervention

PROMPT = 'def read_lines(path):\n    """Return the lines of the file.\n'
MODES = ("add", "clamp", "scale", "ablate", "remove")


def tokens_of(lm: LanguageModel) -> Tensor:
    return torch.tensor([[lm.bos_id, *lm.encode(PROMPT)]])


def activations_by_hand(sae: Any, x_D: Tensor) -> tuple[Tensor, float]:
    """Return all activations of one residual vector by the SAE's rule, and the token's scale."""
    scale = 1.0
    if sae.config["normalize"] == "layer_norm":
        scale = float(x_D.std()) + 1e-5
        x_D = (x_D - x_D.mean()) / scale
    tensors = sae.tensors()
    pre_L = tensors["W_enc"] @ (x_D - tensors["b_dec"]) + tensors["b_enc"]
    if sae.config["architecture"] == "batch_topk":
        return torch.where(pre_L > float(tensors["threshold"]), pre_L, 0.0), scale
    kept = pre_L.topk(sae.config["k"]).indices
    out_L = torch.zeros_like(pre_L)
    out_L[kept] = pre_L[kept].clamp(min=0)
    return out_L, scale


def residual_by_hand(sae: Any, interventions: list[Intervention], x_D: Tensor) -> Tensor:
    acts_L, scale = activations_by_hand(sae, x_D)
    out_D = x_D.clone()
    for i in interventions:
        d_D, a, s, M = sae.tensors()["W_dec"][i.latent], float(acts_L[i.latent]), i.strength, i.max_act
        if i.mode == "add":
            out_D += s * M * scale * d_D
        elif i.mode == "clamp":
            out_D += (s * M - a) * scale * d_D
        elif i.mode == "scale":
            out_D += (s - 1) * a * scale * d_D
        elif i.mode == "ablate":
            out_D -= a * scale * d_D
    removed = [sae.tensors()["W_dec"][i.latent] for i in interventions if i.mode == "remove"]
    if removed:
        rows_RD = torch.stack(removed)
        out_D = out_D - rows_RD.T @ torch.linalg.lstsq(rows_RD.T, out_D).solution
    return out_D


def logits_by_hand(
    plain: Any, tokens_PS: Tensor, edits: dict[int, Callable[[Tensor], Tensor]], steered: Callable[[int], bool],
) -> Tensor:
    """Run the plain Hugging Face model once, with PyTorch hooks that work on one position at a time."""

    def hook_of(edit: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            changed = hidden.clone()
            for position in range(hidden.shape[1]):
                if steered(position):
                    changed[0, position] = edit(hidden[0, position])
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    handles = [plain.model.layers[layer].register_forward_hook(hook_of(edit)) for layer, edit in edits.items()]
    try:
        with torch.no_grad():
            logits: Tensor = plain(tokens_PS).logits
        return logits
    finally:
        for handle in handles:
            handle.remove()


def interventions_for(sae: Any, mode: str, latents: tuple[int, ...] = (3, 17, 40)) -> list[Intervention]:
    return [Intervention(sae=sae.config["id"], layer=sae.layer, latent=latent, mode=mode,  # type: ignore[arg-type]
                         strength=strength, max_act=4.0)
            for latent, strength in zip(latents, (1.5, -0.75, 0.4), strict=True)]


def same(got: Tensor, expected: Tensor) -> None:
    """Check equality to 1e-5 of a logit.

    The relative part is float32's own error: without steering, the plain model with and without its cache
    differs by 1.2e-5 in a logit of 10.
    """
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
