"""Comparison of two SAEs of one language model, latent by latent, by direction and by firing.

    cosine  cosine of two decoder rows, one of each SAE
    φ       correlation of "a fires" and "b fires" over the counted tokens of the same text
    MMCS    mean over one SAE's alive latents of the largest cosine with any latent of the other SAE
            (Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders")

A latent counts as alive here if it fires on the text read for the comparison.

Shapes: A, B latents of the two SAEs, D width, N (token, latent) pairs, K listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import context_batches
from sae.data.corpus import Corpus
from sae.index.cofiring import MIN_TOGETHER
from sae.kernels.codes import Codes
from sae.kernels.segments import rank_within, spread
from sae.kernels.sorting import counted, stable_argsort
from sae.lm.bridge import LanguageModel

LISTED = 3
_RUN_ENTRIES = 1 << 24
_MERGE_AT = 1 << 24  # pairs collected before they are added to the counts


@dataclass
class JointFirings:
    """Counts of the tokens on which latent a of one SAE and latent b of the other are both active."""

    n_a: int
    n_b: int

    def __post_init__(self) -> None:
        self.tokens = 0
        self.fires_A = torch.zeros(self.n_a, dtype=torch.int64)
        self.fires_B = torch.zeros(self.n_b, dtype=torch.int64)
        self._key, self._count = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        self._waiting: list[Tensor] = []

    def add(self, a: Codes, b: Codes) -> None:
        """Count the codes that both SAEs give the same tokens."""
        self.tokens += a.n_tokens
        self.fires_A += torch.bincount(a.latent_N, minlength=self.n_a)
        self.fires_B += torch.bincount(b.latent_N, minlength=self.n_b)
        joint, by = spread(b.offset_B[a.token_N], b.l0_B()[a.token_N])
        self._waiting.append(a.latent_N[by] * self.n_b + b.latent_N[joint])
        if sum(map(len, self._waiting)) > _MERGE_AT:
            self._merge()

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, φ) of all pairs that fire together often enough."""
        self._merge()
        seen = self._count >= MIN_TOGETHER
        a_N, b_N = self._key[seen] // self.n_b, self._key[seen] % self.n_b
        p, q = self.fires_A[a_N].double() / self.tokens, self.fires_B[b_N].double() / self.tokens
        both = self._count[seen].double() / self.tokens
        phi_N = (both - p * q) / (p * (1 - p) * q * (1 - q)).sqrt()
        return a_N, b_N, phi_N.nan_to_num(0.0)

    def _merge(self) -> None:
        key, count = counted(torch.cat(self._waiting)) if self._waiting else (self._key[:0], self._count[:0])
        key, count = torch.cat([self._key, key]), torch.cat([self._count, count])
        order = stable_argsort(key)
        start = np.flatnonzero(np.diff(key[order].numpy(), prepend=-1))
        if len(start):
            self._key = key[order][torch.from_numpy(start)]
            self._count = torch.from_numpy(np.add.reduceat(count[order].numpy(), start))
        self._waiting = []


@dataclass
class Matches:
    """For every latent of one SAE, its nearest latents of the other by direction, and its best match by firing."""

    other_LK: Tensor  # the latents of the other SAE with the highest cosine
    cosine_LK: Tensor
    best_match_L: Tensor  # the latent of the other SAE with the highest φ; −1 if none fires with it often enough
    phi_L: Tensor
    fires_L: Tensor  # counted tokens on which the latent fires

    @property
    def mmcs(self) -> float:
        """Return the mean max cosine over the alive latents; NaN if there is none."""
        return float(self.cosine_LK[self.fires_L > 0, 0].double().mean())


def nearest_between(
    W_AD: Tensor, W_BD: Tensor, n_listed: int = LISTED, check: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Return the rows of `W_BD` with the highest cosine to each row of `W_AD`: (numbers, cosines) [A, K]."""
    unit_AD, unit_BD = (torch.nn.functional.normalize(W.float(), dim=1) for W in (W_AD, W_BD))
    numbers, cosines = [], []
    for part_RD in torch.split(unit_AD, max(1, _RUN_ENTRIES // len(unit_BD))):
        check()
        best = (part_RD @ unit_BD.T).topk(min(n_listed, len(unit_BD)), dim=1)
        numbers.append(best.indices)
        cosines.append(best.values)
    return torch.cat(numbers).cpu(), torch.cat(cosines).cpu()


def joint_firings(
    lm: LanguageModel, saes: tuple[Autoencoder, Autoencoder], corpus: Corpus, contexts: np.ndarray,
    update: Callable[[int], None] = lambda tokens: None,
) -> JointFirings:
    """Read the contexts once for both SAEs.  `update(tokens read)` may raise to stop."""
    joint = JointFirings(saes[0].n_latents, saes[1].n_latents)
    hooks = list(dict.fromkeys(sae.hook for sae in saes))
    for _, tokens_PS, real_PS in context_batches(corpus, contexts):
        real_PS[:, 0] = False  # BOS is not among the counted tokens
        found = lm.activations_at(tokens_PS.to(lm.device), hooks)
        x_ND = {hook: x_PSD[real_PS.to(lm.device)] for hook, x_PSD in zip(hooks, found, strict=True)}
        joint.add(*(_on_cpu(sae.codes(x_ND[sae.hook])) for sae in saes))
        update(joint.tokens)
    return joint


def _on_cpu(codes: Codes) -> Codes:
    return Codes(codes.token_N.cpu(), codes.latent_N.cpu(), codes.value_N.cpu(), codes.n_tokens, codes.n_latents)


def compare(
    a: Autoencoder, b: Autoencoder, joint: JointFirings, check: Callable[[], None] = lambda: None
) -> tuple[Matches, Matches]:
    """Return the matches of a's latents in b, and the matches of b's latents in a."""
    a_N, b_N, phi_N = joint.pairs()
    out = []
    for mine, other, row_N, match_N, fires_L in (
            (a, b, a_N, b_N, joint.fires_A), (b, a, b_N, a_N, joint.fires_B)):
        numbers, cosines = nearest_between(mine.W_dec_LD, other.W_dec_LD, check=check)
        best_match_L = torch.full((mine.n_latents,), -1)
        phi_L = torch.zeros(mine.n_latents, dtype=torch.float64)
        order = stable_argsort(((1 - phi_N).clamp(0, 2) * (1 << 30)).long())
        order = order[stable_argsort(row_N[order])]
        first = order[rank_within(row_N[order]) == 0]
        best_match_L[row_N[first]], phi_L[row_N[first]] = match_N[first], phi_N[first]
        out.append(Matches(numbers, cosines, best_match_L, phi_L, fires_L))
    return out[0], out[1]
