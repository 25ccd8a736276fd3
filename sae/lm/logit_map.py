"""The linear map from a direction at a site to the logits, read off the modules on its way.

A direction in the residual stream passes the final norm and the unembedding.  A direction among the heads or the
MLP's hidden activations first passes an output matrix and, in some families, a norm after it.  A norm divides each
token by a scale of its own: the map is meant up to that factor.

Shapes: D d_model, V vocabulary, w width of the site, T tokens of a probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.dataflow import End, compared_in, equal_to, linear_matrix, output_of, record, same
from sae.lm.norms import Norm, measure_norm
from sae.lm.sites import EMBED, NO_LOGITS, kind_of, split_head

if TYPE_CHECKING:
    from sae.lm.bridge import LanguageModel

PROBE = 12  # tokens
# What a matrix takes to the residual stream, by the sites whose directions pass it.
_OUTPUTS = {"attn.hook_z": "hook_attn_out", "mlp.hook_post": "hook_mlp_out"}


def probe_tokens(lm: LanguageModel, length: int = PROBE) -> Tensor:
    """Return some tokens of the vocabulary behind BOS, [1, length]."""
    ids = torch.randint(0, lm.info.d_vocab, (length,), generator=torch.Generator().manual_seed(0))
    ids[0] = lm.bos_id
    return ids[None].to(lm.device)


def logit_map(lm: LanguageModel, hook: str, head_DV: Tensor | None = None) -> Tensor:
    """Return the map [w, V] from directions at `hook` to logits, centred over the vocabulary.

    Without a hook, and for sites of the residual stream, w is D.  For one head, w is its width.  `head_DV` is the map
    of the residual stream, for a caller that asks for many sites.  Raises UserError (field `site`) where directions
    reach the residual stream by something else than a matrix.
    """
    base, head = split_head(hook)
    if (kind := kind_of(base)) in NO_LOGITS:
        raise UserError(f"site: directions at {kind} have no logits of their own, because {NO_LOGITS[kind]}", "site")
    with compared_in(lm.rounding):
        whole_wV = _from(lm, base, _head_map(lm) if head_DV is None else head_DV)
    return whole_wV if head < 0 else whole_wV[lm.head_columns(hook, len(whole_wV))]


def _head_map(lm: LanguageModel) -> Tensor:
    """Return the map [D, V] of the last block's residual stream."""
    through_norm_DV = final_norm(lm).then(_unembedding_matrix(lm))
    return (through_norm_DV - through_norm_DV.mean(dim=1, keepdim=True)).mul_(_logit_scale(lm))


def _from(lm: LanguageModel, hook: str, centred_DV: Tensor) -> Tensor:
    """Return what takes directions at `hook` to the residual stream, followed by the map of that."""
    kind = kind_of(hook)
    if kind == EMBED:
        return centred_DV * embedding_scale(lm)
    if kind in _OUTPUTS:
        return into_residual(lm, hook) @ centred_DV
    if kind in _OUTPUTS.values():
        return centred_DV * residual_scale(lm, hook)
    return centred_DV


def _unembedding_matrix(lm: LanguageModel) -> Tensor:
    """Return W_U [D, V], measured on the module where its weights are not plain tensors here."""
    if not lm.settings.placed:
        return lm.bridge.W_U.detach().float()  # type: ignore[no-any-return]
    return linear_matrix(inner(lm.bridge.unembed), lm.info.d_model, lm.device)


def embedding_scale(lm: LanguageModel) -> float:
    """Return the factor with which the first block takes in the output of the embedding.

    Raises UserError (field `site`) where it takes in something else, such as a normed embedding.
    """
    first, hooks = probe_tokens(lm), [EMBED, "blocks.0.hook_resid_pre"]
    changes = [other - one for one, other in zip(lm.activations_at(first, hooks),
                                                 lm.activations_at(first.roll(1, dims=1), hooks), strict=True)]
    if changes[0].shape != changes[1].shape or (factor := fit(changes[1], changes[:1])) is None:
        raise UserError(f"site: directions at {EMBED} of {lm.info.name} do not enter the residual stream as they are",
                        "site")
    return _rounded(factor[0])


def final_norm(lm: LanguageModel) -> Norm:
    """Measure the norm before the unembedding; a model without one has gain 1."""
    wrapper = getattr(lm.bridge, "ln_final", None)
    if wrapper is None:
        gain_D = torch.ones(lm.info.d_model, device=lm.device)
        return Norm(gain_D, torch.zeros_like(gain_D), centred=False)
    return measure_norm(inner(wrapper), lm.info.d_model, lm.device)


def into_residual(lm: LanguageModel, hook: str) -> Tensor:
    """Return what takes activations at `hook` into the residual stream: [w, D], gain of a norm after it included."""
    layer, kind = hook.split(".", 2)[1:]
    out_hook = f"blocks.{layer}.{_OUTPUTS[kind]}"
    x_Tw, out_TD, ends = _record(lm, hook, out_hook)
    for end in equal_to(ends, x_Tw, "hook_in"):
        if hasattr(end.module, "original_component"):
            continue
        product_TD = output_of(ends, end.module)
        if product_TD is None or product_TD.shape != out_TD.shape or same(product_TD, x_Tw):
            continue  # what changes nothing is a hook point or a dropout
        try:
            norm, factor = _between(lm, ends, product_TD, out_TD)
            matrix_wD = linear_matrix(end.module, x_Tw.shape[1], lm.device)
        except (ValueError, RuntimeError, TypeError):
            continue
        return (matrix_wD if norm is None else norm.after(matrix_wD)) * factor * residual_scale(lm, out_hook)
    raise UserError(f"site: {hook} of {lm.info.name} does not reach the residual stream by a matrix (a mixture of "
                    "experts has one matrix an expert, for instance)", "site")


def residual_scale(lm: LanguageModel, out_hook: str) -> float:
    """Return the factor with which the residual stream takes in `hook_attn_out` or `hook_mlp_out`: 1 in most models.

    Raises UserError (field `site`) where what a block adds is not made of these two.
    """
    block, _, kind = out_hook.rpartition(".")
    names = [f"{block}.{name}" for name in ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out",
                                            "hook_resid_post")]
    present = [name for name in names if lm.has_site(name)]
    if out_hook not in present:
        raise UserError(f"site: {lm.info.name} has no {out_hook}", "site")
    found = dict(zip(present, lm.activations_at(probe_tokens(lm), present), strict=True))
    pre, attention, middle, mlp, post = (found.get(name) for name in names)
    assert pre is not None
    assert post is not None
    half = (pre, middle) if kind == "hook_attn_out" else (middle, post)
    parts = [part for part in (attention, mlp) if part is not None]
    if half[0] is not None and half[1] is not None:
        factors, number = fit(half[1] - half[0], [found[out_hook]]), 0
    else:
        factors, number = fit(post - pre, parts), 0 if len(parts) == 1 or kind == "hook_attn_out" else 1
    if factors is None:
        raise UserError(f"site: the residual stream of {block} in {lm.info.name} is not the sum of what enters it, "
                        "hook_attn_out and hook_mlp_out", "site")
    return _rounded(factors[number])


def fit(total: Tensor, parts: list[Tensor]) -> list[float] | None:
    """Return the factors with which the parts make a sum, None where they do not make it."""
    if not parts or any(part.shape != total.shape for part in parts):
        return None
    columns = torch.stack([part.reshape(-1).cpu().double() for part in parts], dim=1)
    wanted = total.reshape(-1, 1).cpu().double()
    factors = torch.linalg.lstsq(columns, wanted).solution
    return [float(x) for x in factors[:, 0]] if same(columns @ factors, wanted, 1e-3) else None


def inner(wrapper: Any) -> Any:
    """Return the model's own module inside the bridge's."""
    return getattr(wrapper, "original_component", None) or wrapper


def _record(lm: LanguageModel, hook: str, out_hook: str) -> tuple[Tensor, Tensor, list[End]]:
    block = out_hook.rpartition(".")[0]
    tokens, kept = probe_tokens(lm), []

    def run() -> None:
        kept.extend(lm.activations_at(tokens, [hook, out_hook, f"{block}.hook_resid_post"]))

    ends = record(lm.bridge.blocks[int(block.split(".")[1])], run, tokens.numel(), lm.device)
    return kept[0].flatten(0, 1), kept[1].flatten(0, 1), ends


def _between(lm: LanguageModel, ends: list[End], product_TD: Tensor, out_TD: Tensor) -> tuple[Norm | None, float]:
    """Return the norm, if there is one, and the factor that make one of the other.  Raises ValueError."""
    if (factor := fit(out_TD, [product_TD])) is not None:
        return None, _rounded(factor[0])
    for end in equal_to(ends, product_TD, "hook_in"):
        left = output_of(ends, end.module)
        if left is None or left.shape != out_TD.shape or hasattr(end.module, "original_component"):
            continue
        if (factor := fit(out_TD, [left])) is not None:
            return measure_norm(end.module, lm.info.d_model, lm.device), _rounded(factor[0])
    raise ValueError("no norm")


def _rounded(factor: float) -> float:
    return 1.0 if abs(factor - 1) < 1e-3 else factor


def _logit_scale(lm: LanguageModel) -> float:
    """Return the factor between the unembedding's output and the logits, 1 where they are not proportional."""
    kept: list[Tensor] = []
    handle = inner(lm.bridge.unembed).register_forward_hook(lambda _module, _args, output: kept.append(output))
    try:
        logits = lm.logits(probe_tokens(lm)).cpu().double()  # an Apple GPU has no float64
    finally:
        handle.remove()
    head = kept[-1].cpu().double() if kept else logits
    if head.shape != logits.shape:
        return 1.0
    factor = float((head * logits).sum() / head.square().sum())
    return factor if same(head * factor, logits) and abs(factor - 1) > 1e-3 else 1.0
