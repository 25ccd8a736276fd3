"""Sites whose edit takes place elsewhere, at hook points before and after them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae.lm.norms import Norm, normalized

Edit = Callable[[Tensor], Tensor]
Points = list[tuple[str, Edit]]


def middle_edit(hook: str, edit: Edit, scale: float) -> Points:
    """Return the hook points at which an edit of `hook_resid_mid` is done.

    The bridge's `hook_resid_mid` is the input of the MLP's norm: the residual stream passes it by,
    and an edit there would change the MLP alone.  So the attention's output takes the difference.
    It keeps its bits where the edit changes nothing, and a stream that is set to 0 is exactly 0.
    `scale` is the factor with which the residual stream takes the attention's output in.
    """
    block = hook.rpartition(".")[0]
    keep, before = _kept()

    def put_difference(attention_PSD: Tensor) -> Tensor:
        middle_PSD = before[0] + scale * attention_PSD
        edited_PSD = edit(middle_PSD)
        return torch.where(edited_PSD == middle_PSD, attention_PSD, (edited_PSD - before[0]) / scale)

    # The hook point itself is named so that a model which has none refuses it.
    return [(f"{block}.hook_resid_pre", keep), (f"{block}.hook_attn_out", put_difference), (hook, _unchanged)]


def normalized_edit(hook: str, edit: Edit, norm: Norm, epsilon: float) -> Points:
    """Return the hook points at which an edit of `ln2.hook_normalized` is done: the norm's input and output.

    What the edit changes is added after the norm's gain, whatever the norm multiplies by.
    """
    block = hook.rpartition(".")[0]
    keep, before = _kept()

    def put_difference(out_PSD: Tensor) -> Tensor:
        normal_PSD = normalized(before[0], norm.centred, epsilon)
        change_PSD = edit(normal_PSD) - normal_PSD
        return out_PSD + (change_PSD * norm.gain_D).to(out_PSD.dtype)

    return [(f"{block}.hook_in", keep), (f"{block}.hook_out", put_difference)]


def _kept() -> tuple[Edit, list[Tensor]]:
    before: list[Tensor] = []

    def keep(x_PSD: Tensor) -> Tensor:
        before[:] = [x_PSD]
        return x_PSD

    return keep, before


def _unchanged(x: Tensor) -> Tensor:
    return x
