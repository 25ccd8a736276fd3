"""Ablation: the effect of switching a latent off where it fires.

As a comparison, the direction of a random other latent is subtracted at the same tokens and with the same
length, because any change of that size does some harm.

The spread of an effect is (Σ|Δ|)² / (V·Σ Δ²) of the change Δ in the next-token logits, as in Gao et al.,
Scaling and Evaluating Sparse Autoencoders (2024).  It is 1 if the change is even over all V tokens, and
1/V if only one token changes.  Δ is centred, because a shift of all logits changes nothing.

Shapes: S positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import Edit
from sae.lm.row_model import RowModel
from sae.steering.interventions import check_latent
from sae.steering.next_token import NextToken, cross_entropy_S, kl_S

_TOKENS = 10


@dataclass
class Effect:
    """ΔCE of the true next token and KL(unchanged ‖ changed) in nats, as one mean per context.

    `at` is the mean over the tokens on which the latent fires, `after` over all tokens from the first firing on.
    """

    ce_at: list[float] = field(default_factory=list)
    kl_at: list[float] = field(default_factory=list)
    ce_after: list[float] = field(default_factory=list)
    kl_after: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ablation:
    """Result of an ablation.

    `firings` counts the tokens of each context on which the latent fires; contexts without firings are left out of
    the other fields.  `random` holds the effects of the random latents.  `tokens` holds the next tokens whose
    probability changes most after the latent's strongest token, as a mean over contexts.
    """

    firings: list[int]
    effect: Effect
    random: list[Effect]
    sparsity: float | None
    random_sparsity: float | None
    tokens: list[NextToken]


def ablate(
    model: RowModel, sae: Autoencoder, sae_id: str, latent: int, contexts: Sequence[Sequence[int]], *,
    n_random: int = 4, seed: int = 0,
) -> Iterator[Ablation | None]:
    """Yield None after each context and the result at the end.

    Raises UserError (field `latent` or `contexts.N`).
    """
    check_latent(sae_id, sae, latent)
    _check_contexts(model, contexts)
    if sae.n_latents < 2:
        raise UserError("latent: the SAE has no other latent to compare with", "latent")
    generator = torch.Generator().manual_seed(seed)
    others = torch.randint(sae.n_latents - 1, (n_random,), generator=generator)
    chosen = [latent, *(others + (others >= latent)).tolist()]  # the random ones exclude the latent itself
    firings: list[int] = []
    effects = [Effect() for _ in chosen]
    sparsities: list[list[float]] = [[] for _ in chosen]
    before_V, after_V = (torch.zeros(model.lm.info.d_vocab) for _ in range(2))
    special = set(model.lm.special_ids)
    for ids in contexts:
        base_SV, push_S = _unchanged(model, sae, latent, ids, special)
        fires = (push_S != 0).nonzero()[:, 0].cpu()
        fires = fires[fires < len(ids) - 1]  # the last token has no next token
        firings.append(len(fires))
        if len(fires):
            peak = int(fires[push_S.cpu()[fires].abs().argmax()])
            for effect, sparsity, other in zip(effects, sparsities, chosen, strict=True):
                changed_SV = model.read(ids, {sae.out_hook: _without(push_S, sae.W_dec_LD[other])}, whole=True).cpu()
                _add(effect, base_SV, changed_SV, ids, fires)
                sparsity.append(spread(changed_SV[peak] - base_SV[peak]))
                if other == latent and sparsity is sparsities[0]:
                    before_V += base_SV[peak].softmax(0)
                    after_V += changed_SV[peak].softmax(0)
        yield None
    n = len(effects[0].ce_at)
    rest = [value for values in sparsities[1:] for value in values]
    yield Ablation(
        firings, effects[0], effects[1:], sum(sparsities[0]) / n if n else None,
        sum(rest) / len(rest) if rest else None, _moved(before_V / n, after_V / n) if n else [])


def spread(change_V: Tensor) -> float:
    """Return (Σ|Δ|)² / (V·Σ Δ²) of the centred change, or 1/V if nothing changes."""
    change_V = change_V.double() - change_V.double().mean()
    square = float(change_V.square().sum())
    return float(change_V.abs().sum()) ** 2 / (len(change_V) * square) if square > 0 else 1 / len(change_V)


def _check_contexts(model: RowModel, contexts: Sequence[Sequence[int]]) -> None:
    info = model.lm.info
    for number, ids in enumerate(contexts):
        if len(ids) > info.n_ctx:
            raise UserError(f"contexts.{number}: {len(ids):,} tokens, but {info.name} reads at most {info.n_ctx:,}",
                            f"contexts.{number}")
        if max(ids) >= info.d_vocab:
            raise UserError(f"contexts.{number}: {info.name} has no token {max(ids):,}", f"contexts.{number}")


def _unchanged(
    model: RowModel, sae: Autoencoder, latent: int, ids: Sequence[int], special: set[int]
) -> tuple[Tensor, Tensor]:
    """Return the logits [S, V], and the length that the latent adds along its direction at every position, [S].

    The length is 0 on special tokens.
    """
    kept: list[Tensor] = []

    def read(x_1SD: Tensor) -> Tensor:
        x_SD = x_1SD.reshape(len(ids), -1).float()
        act_S = sae.activation_of(x_SD, torch.tensor([latent], device=sae.device))[:, 0]
        kept.append(act_S * sae.scale(x_SD)[:, 0])
        return x_1SD

    logits_SV = model.read(ids, {sae.hook: read}, whole=True).cpu()
    ordinary_S = torch.tensor([i not in special for i in ids], device=kept[0].device)
    return logits_SV, kept[0] * ordinary_S


def _without(push_S: Tensor, direction_D: Tensor) -> Edit:
    def edit(x_1SD: Tensor) -> Tensor:
        return x_1SD - (push_S[:, None] * direction_D).view(x_1SD.shape).to(x_1SD.dtype)

    return edit


def _add(effect: Effect, base_SV: Tensor, changed_SV: Tensor, ids: Sequence[int], fires: Tensor) -> None:
    ce_S = cross_entropy_S(changed_SV, ids) - cross_entropy_S(base_SV, ids)
    kl = kl_S(base_SV, changed_SV)[:-1]
    first = int(fires[0])
    effect.ce_at.append(float(ce_S[fires].mean()))
    effect.kl_at.append(float(kl[fires].mean()))
    effect.ce_after.append(float(ce_S[first:].mean()))
    effect.kl_after.append(float(kl[first:].mean()))


def _moved(before_V: Tensor, after_V: Tensor) -> list[NextToken]:
    top = (after_V - before_V).abs().topk(min(_TOKENS, len(before_V))).indices.tolist()
    return [NextToken(i, float(before_V[i]), float(after_V[i])) for i in top]
