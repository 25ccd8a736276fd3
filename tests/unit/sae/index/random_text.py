"""Random text with random firings, and the shard that a scan would make of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae.index.forward import Firings, ForwardPass, Misses, Tokens
from sae.index.scales import IndexScales
from sae.index.shard import Shard
from sae.store.records import CLASSES

L, V, S, D, C = 5, 7, 6, 3, len(CLASSES)
SCALES = IndexScales(n_latents=L, d_vocab=V, context_length=S, hist_edges=(0.6, 1.1, 2.3), unit=4.0, norm_unit=16.0,
              n_strong=2, n_bin=1, n_near=2)


class Text:
    """Random contexts: tokens [C, S], lengths [C], activations [C, S, L] of few distinct values, so with many ties."""

    def __init__(self, seed: int, n_contexts: int, density: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens_CS = torch.randint(0, V, (n_contexts, S), generator=generator)
        self.length_C = torch.randint(1, S + 1, (n_contexts,), generator=generator)
        values = torch.randint(1, 7, (n_contexts, S, L), generator=generator) / 2
        fires = torch.rand(n_contexts, S, L, generator=generator) < density
        fires[..., 4] = False
        misses = torch.rand(n_contexts, S, L, generator=generator) < 0.3  # silent, and nearly firing
        self.near_CSL = torch.where(misses & ~fires, torch.randint(-2, 3, (n_contexts, S, L), generator=generator), 9)
        self.acts_CSL = torch.where(fires, values, 0.0)
        self.x_CSD = 4 * torch.randn(n_contexts, S, D, generator=generator)
        self.error_CS = torch.rand(n_contexts, S, generator=generator)
        self.classes_CS = torch.randint(0, 1 << C, (n_contexts, S), generator=generator).to(torch.int16)

    @property
    def counted_CS(self) -> Tensor:
        """Return True for real positions but BOS."""
        position_S = torch.arange(S)
        return (position_S < self.length_C[:, None]) & (position_S > 0)

    @property
    def norm_CS(self) -> Tensor:
        return self.x_CSD.norm(dim=2)

    def shard(self, contexts: list[int]) -> Shard:
        """Make the shard that a scan would make of these contexts, in this order."""
        passes: list[ForwardPass] = []
        for c in contexts:
            n = int(self.length_C[c])
            acts, token = self.acts_CSL[c, :n], self.tokens_CS[c, :n]
            one = Tokens(
                torch.full((n,), c), torch.arange(n), token, torch.roll(token, 1),
                torch.cat([token[1:], torch.tensor([-1])]), self.classes_CS[c, :n], (acts > 0).sum(dim=1),
                self.x_CSD[c, :n], self.error_CS[c, :n])
            at, latent = acts.nonzero(as_tuple=True)
            at, latent = at[at > 0], latent[at > 0]
            firings = Firings(latent, acts[at, latent], one.context_B[at], at, token[at], one.previous_B[at],
                              one.next_B[at], one.l0_B[at], one.classes_B[at])
            near = self.near_CSL[c, :n].float()
            at, latent = (near < 9).nonzero(as_tuple=True)
            at, latent = at[at > 0], latent[at > 0]
            passes.append(ForwardPass(firings, one, Misses(latent, near[at, latent], one.context_B[at], at)))
        return Shard.of(SCALES, passes)


def same(a: Any, b: Any) -> bool:
    """Return whether both are equal to the last bit, in every field."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)
