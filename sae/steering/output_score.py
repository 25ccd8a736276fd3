"""Output score of a latent: how much steering with it raises the probability of its own top logit tokens.

    score = mean over neutral prompts of  Σ over the latent's top tokens of  p(token | steered) − p(token)

The probabilities are those after the prompt's last token, with strength·M·d added on every token but BOS
(mode add of `sae/steering/request.py`).  The top tokens are the ones whose logits the decoder row raises
most through the unembedding (`LanguageModel.unembedding`).  A score near 1 means that steering makes the model say
them.  Near 0, the latent detects its concept but does not write it, so steering will not look like its
label.  Below 0, later blocks reverse the effect.

The score follows Arad, Mueller and Belinkov, SAEs Are Good for Steering – If You Select the Right Features
(2025, arXiv 2505.20063).  They also weight the tokens by rank; the plain sum of probabilities is easier to
interpret.

Shapes: P prompts, S positions, Q latents at once, T top tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.errors import UserError
from sae.lm.bridge import Edit
from sae.lm.row_model import RowModel
from sae.steering.interventions import check_latent

_AT_ONCE = 64  # latents per forward pass


@dataclass(frozen=True)
class OutputScore:
    """Output score of one latent; `score` is None for a latent that never fired, so has no maximum."""

    latent: int
    score: float | None
    tokens: list[int]


def output_scores(
    model: RowModel, sae: Autoencoder, sae_id: str, latents: Sequence[int], max_acts: Sequence[float],
    prompts: Sequence[str], *, strength: float = 2.0, top: int = 10,
) -> Iterator[list[OutputScore]]:
    """Yield the scores of the latents in order, some at a time.

    Raises UserError (field `latents.N` or `prompts`).
    """
    for number, latent in enumerate(latents):
        check_latent(sae_id, sae, latent, f"latents.{number}")
    texts = [[*model.lm.start, *model.lm.encode(prompt)] for prompt in prompts]
    if max(map(len, texts)) > model.lm.info.n_ctx:
        raise UserError(
            f"prompts: one is longer than {model.lm.info.n_ctx:,} tokens, the most that the model reads", "prompts")
    base_PV = torch.stack([model.read(ids).softmax(0) for ids in texts])
    unembedding_DV = model.lm.unembedding(sae.out_hook)
    top = min(top, unembedding_DV.shape[1])
    for i in range(0, len(latents), _AT_ONCE):
        part = torch.tensor(latents[i : i + _AT_ONCE], device=sae.device)
        M_Q = torch.tensor(max_acts[i : i + _AT_ONCE], device=sae.device)
        token_QT = (sae.W_dec_LD[part] @ unembedding_DV).topk(top, dim=1).indices
        moved_Q = torch.zeros(len(part), device=sae.device)
        for ids, base_V in zip(texts, base_PV, strict=True):
            edits = adding(sae, sae.W_dec_LD[part] * (strength * M_Q)[:, None])
            p_QV = model.read_many([ids] * len(part), edits).softmax(dim=1)
            moved_Q += (p_QV.gather(1, token_QT) - base_V[token_QT]).sum(dim=1) / len(texts)
        yield [OutputScore(latent, score if M > 0 else None, tokens) for latent, score, M, tokens in zip(
            part.tolist(), moved_Q.tolist(), M_Q.tolist(), token_QT.tolist(), strict=True)]


def adding(sae: Autoencoder, push_QD: Tensor) -> dict[str, Edit]:
    """Return an edit that adds one row to each text, scaled per token, everywhere but on BOS."""
    def add(x_QSD: Tensor) -> Tensor:
        scale_QS1 = sae.scale(x_QSD.reshape(-1, x_QSD.shape[-1]).float()).view(*x_QSD.shape[:2], 1)
        out_QSD = x_QSD.clone()
        out_QSD[:, 1:] += (push_QD[:, None, :] * scale_QS1[:, 1:]).to(x_QSD.dtype)
        return out_QSD

    return {sae.out_hook: add}
