"""Queries, keys, values and the attention's input, recognised in the plain model by what they do.

A query at a token changes the heads' outputs at that token alone, a key or a value those of later tokens too.  A head
is a run of coordinates whose change stays within it, or within the heads that share it.

Shapes: T tokens of a text, w width of a site, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.lm.conformance.truth import Block
from sae.lm.dataflow import End, columns_of, entering, equal_to, output_of, same
from sae.lm.hook_points import n_heads
from sae.lm.norms import normalized
from sae.lm.sites import HEADS

Z = "attn.hook_z"
_PROJECTED = HEADS[:3]


@dataclass
class Attention:
    """The attention of one block: why its sites and its single heads do not hold, by kind."""

    block: Block
    cfg: Any  # the bridge's, for the numbers of heads

    def recognise(self, found: Mapping[str, Tensor], tokens_1T: Tensor) -> tuple[dict[str, str], dict[str, str]]:
        """Compare sites as the program has them, [T, w] by kind.  Returns the reasons of sites and of heads."""
        kinds = [kind for kind in (*HEADS, "ln1.hook_normalized") if kind in found]
        if Z not in self.block.places:
            reason = "the outputs of the block's heads were not recognised"
            return {kind: reason for kind in kinds if kind != Z}, {}
        reasons, heads = {}, {}
        if "ln1.hook_normalized" in found:
            place = self._norm(found["ln1.hook_normalized"])
            if place is None:
                reasons["ln1.hook_normalized"] = "no norm of the block normalises what the attention takes in so"
            else:
                self.block.places["ln1.hook_normalized"] = place
        for kind in (kind for kind in _PROJECTED if kind in found):
            if not self._place(kind, found[kind]):
                reasons[kind] = "no module of the attention gives out these numbers"
                continue
            reason, own = self._effect(kind, found[kind], tokens_1T)
            if reason:
                reasons[kind] = reason
            elif own:
                heads[kind] = own
        sure = [kind for kind in _PROJECTED if kind in found and kind not in reasons and kind not in heads]
        if not sure:
            heads |= {kind: "no change of one head stays in it" for kind in kinds if kind in HEADS}
        return reasons, heads

    @property
    def _inside(self) -> list[End]:
        """The ends of the modules of the attention."""
        parent = self.block.places[Z].name.rpartition(".")[0]
        return [end for end in self.block.ends if end.name == parent or end.name.startswith(f"{parent}.")]

    def _norm(self, normal_TD: Tensor) -> End | None:
        for end in self.block.ends:
            if end.side != "hook_in" or end.value_Tw.shape != normal_TD.shape:
                continue
            if not any(same(normalized(end.value_Tw, centred, 1e-9), normal_TD, 1e-2) for centred in (False, True)):
                continue
            after = output_of(self.block.ends, end.module)
            if after is not None and after.shape == normal_TD.shape and any(equal_to(self._inside, after, "hook_in")):
                return end
        return None

    def _place(self, kind: str, value_Tw: Tensor) -> bool:
        """Find the module of the attention that gives a site out, by itself or among other columns."""
        places, given = self.block.places, [end for end in self._inside if end.side == "hook_out"]
        if exact := list(equal_to(given, value_Tw, "hook_out")):
            places[kind] = exact[-1]
            return True
        for end in reversed(given):
            if (columns := columns_of(end.value_Tw, value_Tw)) is not None:
                places[kind], self.block.columns[kind] = end, columns
                return True
        return False

    def _effect(self, kind: str, value_Tw: Tensor, tokens_1T: Tensor) -> tuple[str, str]:
        """Return why a site does not do what its name says, and why its heads do not."""
        n, H, width = n_heads(self.cfg, kind), n_heads(self.cfg, Z), value_Tw.shape[1]
        T, z_Tw = len(value_Tw), self.block.places[Z].value_Tw
        at = T // 2
        columns = slice(width - width // n, width)  # of the last head
        push_w = torch.randn(width // n, generator=torch.Generator().manual_seed(4)).to(value_Tw) * value_Tw.std()
        change_Tw = (self._outputs(kind, at, columns, push_w, tokens_1T) - z_Tw).float()
        moved_T = change_Tw.abs().amax(dim=1) > 1e-5 * z_Tw.float().std()
        if moved_T[:at].any() or not moved_T[at:].any() or bool(moved_T[at + 1 :].any()) == (kind == HEADS[0]):
            return "changing it does not change the heads' outputs as its name says", ""
        if width % n or z_Tw.shape[1] % H or H % n:
            return "", f"{width} coordinates are not those of {n} heads"
        size_H = change_Tw.square().sum(dim=0).view(H, -1).sum(dim=1)
        share = float(size_H[H - H // n :].sum() / size_H.sum())
        # A norm over all queries or keys couples the heads a little; nothing couples the values.
        return "", "" if share > (0.999 if kind == HEADS[2] else 0.5) else "a change of one head does not stay in it"

    def _outputs(self, kind: str, at: int, columns: slice, push_w: Tensor, tokens_1T: Tensor) -> Tensor:
        """Return the heads' outputs [T, w] after a change of some columns of a site at one token."""
        kept: list[Tensor] = []

        def edit(x: Tensor) -> Tensor:
            out = x.clone()
            out[:, at, columns] += push_w
            return out

        def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = entering(args, kwargs)
            assert value is not None
            kept.append(value.reshape(tokens_1T.numel(), -1))

        handle = self.block.places[Z].module.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self.block.edited_logits(kind, edit, tokens_1T)
        finally:
            handle.remove()
        return kept[-1]
