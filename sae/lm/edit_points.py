"""Sites whose edit takes place elsewhere, at hook points before and after them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae.lm.norms import Norm, normalized

Edit = Callable[[Tensor], Tensor]
Points = list[tuple[str, Edit]]


def middle_edit(hook: str, edit: Edit) -> Points:
    """Return the hook points at which an edit of `hook_resid_mid` is done: the MLP's input and the block's output.

    The bridge's `hook_resid_mid` is the input of the MLP's norm: the residual stream passes it by,
    and an edit there changes the MLP alone.  So the block's output takes the difference.  It keeps
    its bits where the edit changes nothing, and a stream that is set to 0 is exactly 0 if the MLP adds nothing.
    """
    block = hook.rpartition(".")[0]
    kept: list[tuple[Tensor, Tensor]] = []

    def take(middle_PSD: Tensor) -> Tensor:
        kept[:] = [(middle_PSD, edit(middle_PSD))]
        return kept[0][1]

    def put(out_PSD: Tensor) -> Tensor:
        middle_PSD, edited_PSD = (x.view(out_PSD.shape) for x in kept[0])
        return torch.where(edited_PSD == middle_PSD, out_PSD, edited_PSD + (out_PSD - middle_PSD))

    return [(hook, take), (f"{block}.hook_resid_post", put)]


def normalized_edit(hook: str, edit: Edit, norm: Norm, epsilon: float) -> Points:
    """Return the hook points at which an edit of `ln2.hook_normalized` is done: the norm's input and output.

    What the edit changes is added after the norm's gain, whatever the norm multiplies by.
    """
    block = hook.rpartition(".")[0]
    before: list[Tensor] = []

    def keep(x_PSD: Tensor) -> Tensor:
        before[:] = [x_PSD]
        return x_PSD

    def put_difference(out_PSD: Tensor) -> Tensor:
        normal_PSD = normalized(before[0], norm.centred, epsilon)
        change_PSD = edit(normal_PSD) - normal_PSD
        return out_PSD + (change_PSD * norm.gain_D).to(out_PSD.dtype)

    return [(f"{block}.hook_in", keep), (f"{block}.hook_out", put_difference)]
