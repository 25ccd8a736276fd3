"""Effect of an intervention on the predictions along one text: probabilities and KL divergence.

Shapes: S positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.errors import UserError
from sae.lm.row_model import RowModel
from sae.steering.interventions import Steering


@dataclass(frozen=True)
class NextToken:
    """Probabilities of one next token, unsteered and steered."""

    id: int
    baseline: float
    steered: float


def steered_logits(
    model: RowModel, ids: Sequence[int], steering: Steering, prompt_length: int, *, steered: bool
) -> tuple[Tensor, list[list[float]]]:
    """Return the next-token logits [S, V] after every prefix, on the CPU, and the latents' activations [S][N].

    Raises UserError (field `strength`) if the logits are not finite.
    """
    mask_1S = steering.mask(torch.tensor([list(ids)]), 0, prompt_length) & steered
    readings: dict[int, Tensor] = {}
    logits_SV = model.read(ids, steering.edits(mask_1S.to(model.device), readings), whole=True).cpu()
    if not bool(torch.isfinite(logits_SV).all()):
        raise UserError("strength: the model's output is no longer a number at this strength; lower it", "strength")
    acts_NS = torch.stack([readings[index][0] for index in range(len(readings))])
    return logits_SV, acts_NS.T.tolist()


def kl_S(p_SV: Tensor, q_SV: Tensor) -> Tensor:
    """Return KL(p ‖ q) of the distributions of each pair of rows of logits, in nats: [S]."""
    p_SV, q_SV = p_SV.log_softmax(dim=-1), q_SV.log_softmax(dim=-1)
    return (p_SV.exp() * (p_SV - q_SV)).sum(dim=-1).clamp(min=0)


def next_tokens(baseline_V: Tensor, steered_V: Tensor, top: int) -> list[NextToken]:
    """Return the `top` most likely tokens of either model, sorted by the larger of both probabilities."""
    p_V, q_V = baseline_V.softmax(dim=-1), steered_V.softmax(dim=-1)
    wanted = torch.tensor(sorted({i for v_V in (p_V, q_V) for i in v_V.topk(min(top, len(v_V))).indices.tolist()}))
    order = torch.maximum(p_V[wanted], q_V[wanted]).argsort(descending=True, stable=True)
    return [NextToken(i, float(p_V[i]), float(q_V[i])) for i in wanted[order].tolist()]


def cross_entropy_S(logits_SV: Tensor, ids: Sequence[int]) -> Tensor:
    """Return the cross-entropy of each token but the first, given the tokens before it: [S − 1], nats."""
    return -logits_SV[:-1].log_softmax(dim=-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def perplexity(logits_SV: Tensor, ids: Sequence[int], prompt_length: int) -> float | None:
    """Return the perplexity of the output given the prompt, or None without output."""
    if len(ids) <= prompt_length:
        return None
    return math.exp(min(float(cross_entropy_S(logits_SV, ids)[prompt_length - 1 :].mean()), 700.0))
