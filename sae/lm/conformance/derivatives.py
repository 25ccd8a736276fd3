"""The map from directions to logits, compared with differences through the real final norm and head.

The end of a model is what follows its last block.  It is given vectors x ± d in place of the block's output.  x has
no mean and is orthogonal to d, so both have the same size and a norm's own derivative falls away.  d has a mean, which
shows whether the final norm subtracts it.

Shapes: n directions, T tokens, w width of a site, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sae.lm.conformance.truth import Block, Truth
from sae.lm.dataflow import entering, equal_to, first_tensor, linear_matrix, output_of, same
from sae.lm.logit_map import fit
from sae.lm.sites import EMBED

_N, _FIRST = 4, 2  # directions, each at a position of its own from the first on
_OUTPUTS = {"attn.hook_z": "hook_attn_out", "mlp.hook_post": "hook_mlp_out"}


@torch.no_grad()
def agrees(truth: Truth, last: nn.Module, block: Block, kind: str, lists_wV: Tensor, tokens_1T: Tensor) -> bool:
    """Return whether a map from directions at a site to logits is that of the real model, up to each token's scale."""
    generator = torch.Generator().manual_seed(3)
    d_nw = (torch.randn(_N, lists_wV.shape[0], generator=generator) + 0.5).to(lists_wV.device)
    normed = False
    if kind in _OUTPUTS:
        d_nw, normed = _away_from_norm(block, kind, d_nw)
        out = _OUTPUTS[kind]
        through_nD = _changes(truth, block, kind, d_nw, tokens_1T) * block.factors[out] * block.scales[out]
    else:
        through_nD = d_nw * block.factors.get(kind, 1.0)
    x_nD = torch.randn(through_nD.shape, generator=generator).to(through_nD) * 4 * through_nD.std()
    x_nD = x_nD - x_nD.mean(-1, keepdim=True)
    x_nD = _without(x_nD, through_nD - through_nD.mean(-1, keepdim=True))
    plus, minus = (_end(truth, last, x_nD + sign * through_nD, tokens_1T) for sign in (1, -1))
    found_nV = (plus - minus) / 2
    found_nV = found_nV - found_nV.mean(-1, keepdim=True)
    expected_nV = d_nw @ lists_wV
    cosine_n = torch.nn.functional.cosine_similarity(found_nV.cpu().double(), expected_nV.cpu().double(), dim=-1)
    if truth.lm.rounding != torch.float32:
        return bool((cosine_n > 0.99).all())
    if normed:  # a scale of its own for each token
        return bool((cosine_n > 1 - 1e-4).all())
    centred_nD = through_nD - through_nD.mean(-1, keepdim=True)
    sizes = [torch.ones_like(x_nD[:, :1])] + [
        (x_nD.square() + d_nD.square()).mean(-1, keepdim=True).sqrt() for d_nD in (through_nD, centred_nD)]
    return any(same(found_nV * size_n1, expected_nV, 5e-3) for size_n1 in sizes)


@torch.no_grad()
def taken_in(truth: Truth, first: nn.Module, embedding: Block, tokens_1T: Tensor) -> float:
    """Return the factor with which the first block takes in what the embedding gives out; 0 where there is none."""
    inputs: list[Tensor] = []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = entering(args, kwargs)
        assert value is not None
        inputs.append(value.reshape(tokens_1T.numel(), -1).double())

    changes = embedding.places[EMBED].value_Tw.flip(0)
    handle = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for share in (0.0, 1.0):
            embedding.edited_logits(EMBED, partial(torch.add, share * changes.float()), tokens_1T)
    finally:
        handle.remove()
    factors = fit(inputs[1] - inputs[0], [changes.double()])
    return factors[0] if factors else 0.0


def _without(x: Tensor, direction: Tensor) -> Tensor:
    """Return x less its part along a direction."""
    size = direction.square().sum(-1, keepdim=True).clamp(min=1e-30)
    return x - (x * direction).sum(-1, keepdim=True) / size * direction


def _away_from_norm(block: Block, kind: str, d_nw: Tensor) -> tuple[Tensor, bool]:
    """Return directions that do not change the scale of a norm after the output matrix, and whether there is one."""
    place = block.places[kind]
    product_TD = output_of(block.ends, place.module)
    assert product_TD is not None
    if any(end.module is block.places[_OUTPUTS[kind]].module for end in equal_to(block.ends, product_TD, "hook_out")):
        return d_nw, False
    matrix_wD = linear_matrix(place.module, d_nw.shape[1], d_nw.device)
    product_nD = product_TD[_FIRST : _FIRST + _N].float()
    scale_nw = product_nD @ matrix_wD.T
    mean_nw = matrix_wD.sum(dim=1).expand_as(scale_nw)
    d_nw = _without(d_nw, mean_nw)
    return _without(d_nw, _without(scale_nw, mean_nw)), True


def _changes(truth: Truth, block: Block, kind: str, d_nw: Tensor, tokens_1T: Tensor) -> Tensor:
    """Return what directions at a site become in what the block adds, by small changes in the real model: [n, D]."""
    place, out = block.places[kind], block.places[_OUTPUTS[kind]]
    # A small step would be lost in the rounding of a format with few bits.
    share = 1e-2 if truth.lm.rounding == torch.float32 else 0.3
    step = share * float(place.value_Tw.std() / d_nw.std())
    results = []
    for sign in (1, -1):
        kept: list[Tensor] = []

        def edit(x: Tensor, sign: int = sign) -> Tensor:
            changed = x.reshape(tokens_1T.numel(), -1).clone()
            changed[_FIRST : _FIRST + _N] += (sign * step * d_nw).to(x.dtype)
            return changed.reshape(x.shape)

        before = place.module.register_forward_pre_hook(lambda _m, args, edit=edit: (edit(args[0]), *args[1:]))
        after = out.module.register_forward_hook(lambda _m, _a, output, kept=kept: kept.append(first_tensor(output)))
        try:
            truth.logits(tokens_1T)
        finally:
            before.remove()
            after.remove()
        results.append(kept[-1].reshape(tokens_1T.numel(), -1)[_FIRST : _FIRST + _N].double())
    return ((results[0] - results[1]) / (2 * step)).float()


def _end(truth: Truth, last: nn.Module, x_nD: Tensor, tokens_1T: Tensor) -> Tensor:
    """Return the logits [n, V] for vectors that leave the last block, before a soft cap if there is one."""
    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        old = first_tensor(output)
        assert old is not None
        new = old.clone()
        new.view(tokens_1T.numel(), -1)[_FIRST : _FIRST + _N] = x_nD.to(new.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    head: list[Tensor] = []
    handles = [last.register_forward_hook(replace)]
    unembedding = truth.model.get_output_embeddings()
    if unembedding is not None:
        handles.append(unembedding.register_forward_hook(lambda _m, _a, output: head.append(output)))
    try:
        logits_TV = truth.logits(tokens_1T)
    finally:
        for handle in handles:
            handle.remove()
    if head and head[-1].numel() == logits_TV.numel():
        before_TV = head[-1].reshape(logits_TV.shape).float()
        factor = (before_TV * logits_TV).sum() / before_TV.square().sum()
        if not same(before_TV * factor, logits_TV):
            logits_TV = before_TV
    return logits_TV[_FIRST : _FIRST + _N]
