"""Sites whose edit takes place elsewhere, at hook points before and after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sae.lm.norms import Norm, normalized
from sae.lm.sites import KINDS, kind_of

Edit = Callable[[Tensor], Tensor]
Points = list[tuple[str, Edit]]


def middle_edit(hook: str, edit: Edit, mlp_scale: float | None) -> Points:
    """Return the hook points at which an edit of `hook_resid_mid` is done: the MLP's input and the block's output.

    The bridge's `hook_resid_mid` is the input of the MLP's norm: the residual stream passes it by,
    and an edit there changes the MLP alone.  So the block's output is made again of the edited stream and of what
    the MLP adds, times `mlp_scale`: a stream that is set to 0 is exactly 0.  Without a scale, the MLP's part is the
    difference between the block's output and the unedited stream.  What the edit leaves alone keeps its bits.
    """
    block = hook.rpartition(".")[0]
    kept: dict[str, Tensor] = {}

    def take(middle_PSD: Tensor) -> Tensor:
        kept["middle"], kept["edited"] = middle_PSD, edit(middle_PSD)
        return kept["edited"]

    def keep(mlp_PSD: Tensor) -> Tensor:
        kept["mlp"] = mlp_PSD
        return mlp_PSD

    def put(out_PSD: Tensor) -> Tensor:
        middle_PSD, edited_PSD = (kept[name].view(out_PSD.shape) for name in ("middle", "edited"))
        added_PSD = out_PSD - middle_PSD if mlp_scale is None else kept["mlp"].view(out_PSD.shape) * mlp_scale
        return torch.where(edited_PSD == middle_PSD, out_PSD, edited_PSD + added_PSD)

    points = [(hook, take), (f"{block}.hook_resid_post", put)]
    return points if mlp_scale is None else [*points, (f"{block}.hook_mlp_out", keep)]


def in_order(edits: Mapping[str, Points]) -> Points:
    """Return all points of edits, by site, in the order in which their hooks are to be attached.

    Hooks at one place run in the order of attachment.  An edit of a site comes after those that the model computes
    before; what only keeps a value comes after the edits of it, and what completes an earlier edit before them.
    """
    def key(hook: str, point: str) -> tuple[int, int]:
        kind, own = kind_of(point), kind_of(hook)
        order = list(KINDS)
        site = {"ln2.hook_in": "hook_mlp_in", "ln2.hook_out": "ln2.hook_normalized",
                "ln1.hook_out": "ln1.hook_normalized"}.get(kind, kind)
        place = order.index(site) if site in order else -1
        rank = {("hook_resid_mid", "hook_resid_post"): -1, ("hook_resid_mid", "hook_mlp_out"): 1,
                ("ln2.hook_normalized", "ln2.hook_in"): 1}.get((own, kind), 0)
        return place, rank

    pairs = [(key(hook, point), (point, part)) for hook, points in edits.items() for point, part in points]
    return [pair for _, pair in sorted(pairs, key=lambda entry: entry[0])]


def normalized_edit(hook: str, edit: Edit, norm: Norm, epsilon: float) -> Points:
    """Return the hook points at which an edit of `hook_normalized` of a norm is done: the norm's input and output.

    What the edit changes gets the norm's gain and bias, whatever the norm multiplies by; the rest keeps its bits.
    """
    block = hook.rpartition(".")[0]
    before: list[Tensor] = []

    def keep(x_PSD: Tensor) -> Tensor:
        before[:] = [x_PSD]
        return x_PSD

    def put_difference(out_PSD: Tensor) -> Tensor:
        normal_PSD = normalized(before[0], norm.centred, epsilon)
        edited_PSD = edit(normal_PSD)
        changed_PSD = (edited_PSD * norm.gain_D + norm.bias_D).to(out_PSD.dtype)
        return torch.where(edited_PSD == normal_PSD, out_PSD, changed_PSD)

    return [(f"{block}.hook_in", keep), (f"{block}.hook_out", put_difference)]
