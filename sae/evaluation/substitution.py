"""Next-token losses of a language model whose activations are replaced by reconstructions or ablated.

The replaced positions are the counted tokens of `sae.evaluation.metrics`: BOS and padding are never replaced,
and their predictions are never averaged.

    CE   cross-entropy of the true next token, in nats
    KL   KL(unchanged ‖ changed) of the next-token distribution, in nats, by log-softmax

Shapes: N tokens, P contexts, S positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import context_batches
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.kernels.device import wide
from sae.lm.bridge import Edit, Edits, LanguageModel
from sae.lm.shared_start import SharedStart

Progress = Callable[[int, int], None]  # called with tokens done and tokens in total; may raise to stop
ABLATIONS = ("clean", "zero", "mean")
_LOGITS = 1 << 27  # entries of the logits in memory at once: 512 MiB


@dataclass
class SubstitutionSums:
    """Sums of losses over the predicting positions of each context, float64 [P].

    The passes are named `clean`, `zero` and `mean`, and each SAE by its number.
    """

    predicted_P: np.ndarray
    ce: dict[str | int, np.ndarray]
    kl: dict[str | int, np.ndarray] = field(default_factory=dict)  # empty unless it was asked for


def recovered(ablated: float, sae: float, clean: float) -> float | None:
    """Return (ablated − sae) / (ablated − clean), or None if the ablation changes nothing."""
    return (ablated - sae) / (ablated - clean) if ablated != clean else None


def substitution_sums(
    lm: LanguageModel, saes: Sequence[Autoencoder], corpus: Corpus, contexts: np.ndarray, mean_D: Tensor,
    progress: Progress | None = None, *, left_out: LeftOut = NOTHING, with_kl: bool = False,
) -> SubstitutionSums:
    """Sum the losses of several SAEs of one site, which share the clean and the ablated passes.

    `mean_D` replaces the target in mean ablation.
    """
    names: list[str | int] = [*ABLATIONS, *range(len(saes))]
    ce: dict[str | int, list[float]] = {name: [] for name in names}
    kl: dict[str | int, list[float]] = {name: [] for name in names[1:]} if with_kl else {}
    predicted: list[int] = []
    done, total = 0, int((corpus.length[contexts].astype(np.int64) - 1).sum())
    start = SharedStart(lm, list(dict.fromkeys(hook for sae in saes for hook in (sae.hook, sae.out_hook))))
    shares: bool | None = None
    for _, tokens_PS, real_PS in context_batches(
            corpus, contexts, max_tokens=min(4096, _LOGITS // lm.info.d_vocab)):
        tokens_PS, real_PS = tokens_PS.to(lm.device), real_PS.to(lm.device)
        counted_PS = real_PS.clone()
        counted_PS[:, 0] = False
        if left_out:
            x_ND = lm.activations(tokens_PS, saes[0].hook)[counted_PS]
            counted_PS[counted_PS.clone()] = ~left_out.mask(x_ND, tokens_PS[counted_PS])
        predicts_PS = counted_PS[:, :-1] & real_PS[:, 1:]
        if shares is None:
            zero = {saes[0].out_hook: replacing(counted_PS[:1], torch.zeros_like)}
            shares = start.works(tokens_PS[:1], zero)
        clean_PSV: Tensor | None = None
        output: Any = None
        for name, edits in _passes(saes, counted_PS, mean_D).items():
            if not shares:
                logits_PSV = lm.logits(tokens_PS, edits)
            elif edits:
                logits_PSV = start.edited(tokens_PS, edits, output)
            else:
                logits_PSV, output = start.clean(tokens_PS)
            ce[name] += _losses(logits_PSV, tokens_PS, predicts_PS)
            if clean_PSV is not None:
                kl[name] += _divergences(clean_PSV, logits_PSV, predicts_PS)
            elif with_kl:
                clean_PSV = logits_PSV
        predicted += predicts_PS.sum(dim=1).tolist()
        done += int(counted_PS.sum())
        if progress:
            progress(done, total)
    return SubstitutionSums(np.array(predicted), {name: np.array(sums) for name, sums in ce.items()},
                            {name: np.array(sums) for name, sums in kl.items()})


def _passes(saes: Sequence[Autoencoder], counted_PS: Tensor, mean_D: Tensor) -> dict[str | int, Edits]:
    """Return the edits of each forward pass, the clean one first."""
    hook = saes[0].out_hook
    return {
        "clean": {}, "zero": {hook: replacing(counted_PS, torch.zeros_like)},
        "mean": {hook: replacing(counted_PS, lambda x_ND: mean_D.expand_as(x_ND))},
        **{i: substitution(sae, counted_PS) for i, sae in enumerate(saes)}}


def _losses(logits_PSV: Tensor, tokens_PS: Tensor, predicts_PS: Tensor) -> list[float]:
    """Sum the losses at the predicting positions, one context at a time to keep copies of logits small."""
    return [
        float(wide(F.cross_entropy(logits_SV[:-1][predicts_S], tokens_S[1:][predicts_S], reduction="none")).sum())
        for logits_SV, tokens_S, predicts_S in zip(logits_PSV, tokens_PS, predicts_PS, strict=True)]


def _divergences(clean_PSV: Tensor, logits_PSV: Tensor, predicts_PS: Tensor) -> list[float]:
    """Sum KL(clean ‖ changed) at the predicting positions of each context."""
    out = []
    for clean_SV, logits_SV, predicts_S in zip(clean_PSV, logits_PSV, predicts_PS, strict=True):
        p_NV, q_NV = (x_SV[:-1][predicts_S].log_softmax(dim=-1) for x_SV in (clean_SV, logits_SV))
        out.append(float(wide((p_NV.exp() * (p_NV - q_NV)).sum(dim=-1)).sum()))
    return out


def replacing(where_PS: Tensor, make: Callable[[Tensor], Tensor]) -> Edit:
    """Return an edit that replaces the activations [N, D] at `where_PS` with `make(activations)`."""
    def edit(x_PSD: Tensor) -> Tensor:
        out, found = x_PSD.clone(), x_PSD[where_PS]
        out[where_PS] = make(found.flatten(1)).reshape(found.shape).to(out.dtype)  # concatenates heads
        return out

    return edit


def substitution(sae: Autoencoder, where_PS: Tensor) -> Edits:
    """Return the edits that replace an SAE's target with its reconstruction."""
    if not sae.is_transcoder:
        return {sae.hook: replacing(where_PS, sae.reconstruct)}
    read: list[Tensor] = []

    def keep(x_PSD: Tensor) -> Tensor:
        read[:] = [x_PSD[where_PS].flatten(1)]
        return x_PSD

    return {sae.hook: keep, sae.out_hook: replacing(where_PS, lambda _: sae.reconstruct(read[0]))}
