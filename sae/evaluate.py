"""How good an SAE is, on held-out text: FVU, L0, dead latents, ΔCE; and the calibration of θ.

Every metric is over *counted* tokens: real positions except BOS.  Definitions:

    FVU     Σ‖x − x_hat‖² / Σ‖x − x_mean‖², one mean over the same tokens, sums in float64
    L0      active latents per token
    dead    latents that fire on none of the tokens
    ΔCE     CE with the residual stream replaced by its reconstruction, minus clean CE (nats per
            predicted token); BOS and padding are never replaced and never averaged
    CE recovered  (CE_ablated − CE_sae) / (CE_ablated − CE_clean), for zero and for mean ablation

Sums are accumulated over all tokens before any division.

Shapes: N tokens, P contexts, S positions, D width, L latents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.activations import context_batches
from sae.autoencoder import Autoencoder
from sae.corpus import Corpus
from sae.errors import UserError
from sae.kernels.select import batch_topk
from sae.lm import Edit, LanguageModel

Progress = Callable[[int, int], None]  # tokens done, tokens in all; may raise to stop


def held_out_contexts(corpus: Corpus, n_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint sets of held-out contexts, for calibration and for evaluation, of about
    `n_tokens` counted tokens each, or half of what is held out where that is less.
    Raises UserError (field `text`) where not even two contexts are held out."""
    contexts = corpus.contexts("held_out", seed)
    if len(contexts) < 2:
        raise UserError(
            f"text: {corpus.n_contexts} contexts of {corpus.context_length} tokens are too few: {len(contexts)} held "
            "out, and one to calibrate and one to evaluate on are needed; give more text, or a shorter context_length",
            "text")
    return (_first_tokens(corpus, contexts[0::2], n_tokens), _first_tokens(corpus, contexts[1::2], n_tokens))


def _first_tokens(corpus: Corpus, contexts: np.ndarray, n_tokens: int) -> np.ndarray:
    counted = np.cumsum(corpus.length[contexts].astype(np.int64) - 1)
    return contexts[: int(np.searchsorted(counted, n_tokens)) + 1]


def counted_tokens(corpus: Corpus, contexts: np.ndarray) -> int:
    return int((corpus.length[contexts].astype(np.int64) - 1).sum())


def residuals(
    lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hook: str, progress: Progress | None = None
) -> Iterator[Tensor]:
    """The activations of the counted tokens, a forward pass at a time: [N, D] float32."""
    total, done = counted_tokens(corpus, contexts), 0
    for _, tokens_PS, real_PS in context_batches(corpus, contexts):
        real_PS[:, 0] = False
        x_ND = lm.activations(tokens_PS.to(lm.device), hook)[real_PS.to(lm.device)]
        done += len(x_ND)
        if progress:
            progress(done, total)
        yield x_ND


def calibrate_threshold(sae: Autoencoder, activations: list[Tensor], k: int) -> float:
    """The θ at which the mean L0 of these activations is k, strictly counted: between the k·N-th
    and the next largest pre-activation of all.

    Exact without keeping them all: each batch gives its strongest ones, and the batches are asked
    for more until the weakest value kept anywhere lies below the answer.
    """
    batches = [part for x_ND in activations for part in sae.pieces(x_ND)]
    n_tokens = sum(map(len, batches))
    factor = 2
    while True:
        wanted = [factor * k * len(x_ND) for x_ND in batches]
        kept = [batch_topk(sae.pre_activations(x_ND), min(n, len(x_ND) * sae.n_latents)).value_N
                for x_ND, n in zip(batches, wanted, strict=True)]
        # A batch that gave fewer than asked has given all its positive ones.
        floors = [float(values.min()) for values, n in zip(kept, wanted, strict=True) if len(values) == n]
        values = torch.cat(kept)
        if len(values) <= k * n_tokens:
            if not floors:
                return 0.0  # fewer than k positive pre-activations a token: nothing to cut
        else:
            kth, following = map(float, values.topk(k * n_tokens + 1).values[-2:])
            if not floors or kth > max(floors):
                middle = float(np.float32((kth + following) / 2))
                return middle if middle < kth else following  # between neighbours, rounding can reach the upper one
        factor *= 2


@dataclass
class _Sums:
    """Accumulators of one pass over activations."""

    n: int = 0
    error: float = 0.0
    square: float = 0.0
    l0: float = 0.0
    l0_square: float = 0.0
    total_D: Tensor | None = None
    fired_L: Tensor | None = None

    def add(self, x_ND: Tensor, x_hat_ND: Tensor, l0_N: Tensor, latent_N: Tensor, n_latents: int) -> None:
        self.n += len(x_ND)
        # Squares of float32 activations summed in float64: per token first, then over tokens.
        self.error += float((x_ND - x_hat_ND).double().square().sum())
        self.square += float(x_ND.double().square().sum())
        self.l0 += float(l0_N.sum())
        self.l0_square += float(l0_N.double().square().sum())
        total_D = x_ND.double().sum(dim=0)
        self.total_D = total_D if self.total_D is None else self.total_D + total_D
        fired_L = torch.zeros(n_latents, dtype=torch.bool, device=x_ND.device)
        fired_L[latent_N] = True
        self.fired_L = fired_L if self.fired_L is None else self.fired_L | fired_L

    @property
    def fvu(self) -> float:
        assert self.total_D is not None
        variance = self.square - float(self.total_D.square().sum()) / self.n
        return self.error / variance


def reconstruction_metrics(sae: Autoencoder, activations: Iterator[Tensor]) -> dict[str, Any]:
    """FVU, L0 and dead latents over a stream of activations [N, D]."""
    sums = _Sums()
    for x_ND in activations:
        codes = sae.codes(x_ND)
        sums.add(x_ND, sae.decode(codes, x_ND), codes.l0_B(), codes.latent_N, sae.n_latents)
    assert sums.fired_L is not None
    dead = int((~sums.fired_L).sum())
    mean = sums.l0 / sums.n
    return {
        "fvu": sums.fvu, "l0": mean, "l0_std": max(0.0, sums.l0_square / sums.n - mean**2) ** 0.5,
        "dead": dead, "dead_fraction": dead / sae.n_latents, "tokens": sums.n,
    }


def mean_l0(sae: Autoencoder, activations: list[Tensor], threshold: float) -> float:
    """Mean L0 that a threshold gives on these activations."""
    batches = (part for x_ND in activations for part in sae.pieces(x_ND))
    fired = sum(int((sae.pre_activations(x_ND) > max(threshold, 0.0)).sum()) for x_ND in batches)
    return fired / sum(len(x_ND) for x_ND in activations)


def cross_entropy_metrics(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, mean_D: Tensor,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """ΔCE and CE recovered.  `mean_D` is the mean activation, for mean ablation."""
    sums, n_predicted, done = dict.fromkeys(("clean", "sae", "zero", "mean"), 0.0), 0, 0
    total = counted_tokens(corpus, contexts)
    for _, tokens_PS, real_PS in context_batches(corpus, contexts, max_tokens=4096):
        tokens_PS, real_PS = tokens_PS.to(lm.device), real_PS.to(lm.device)
        counted_PS = real_PS.clone()
        counted_PS[:, 0] = False
        predicts_PS = counted_PS[:, :-1] & real_PS[:, 1:]

        edits = {"clean": None, "sae": _replacing(counted_PS, sae.reconstruct),
                 "zero": _replacing(counted_PS, torch.zeros_like),
                 "mean": _replacing(counted_PS, lambda x_ND: mean_D.expand_as(x_ND))}
        for name, edit in edits.items():
            logits_PSV = lm.logits(tokens_PS, {sae.hook: edit} if edit else None)
            loss = F.cross_entropy(logits_PSV[:, :-1][predicts_PS], tokens_PS[:, 1:][predicts_PS], reduction="none")
            sums[name] += float(loss.double().sum())
        n_predicted += int(predicts_PS.sum())
        done += int(counted_PS.sum())
        if progress:
            progress(done, total)
    ce = {name: value / n_predicted for name, value in sums.items()}

    def recovered(ablated: float) -> float | None:
        return (ablated - ce["sae"]) / (ablated - ce["clean"]) if ablated != ce["clean"] else None

    return {
        "ce_clean": ce["clean"], "ce_sae": ce["sae"], "delta_ce": ce["sae"] - ce["clean"],
        "ce_zero": ce["zero"], "ce_mean": ce["mean"], "ce_recovered_zero": recovered(ce["zero"]),
        "ce_recovered_mean": recovered(ce["mean"]), "ce_tokens": n_predicted,
    }


def _replacing(where_PS: Tensor, make: Callable[[Tensor], Tensor]) -> Edit:
    """An edit that replaces the activations [N, D] at `where_PS` by what `make` gives for them."""
    def edit(resid_PSD: Tensor) -> Tensor:
        out = resid_PSD.clone()
        out[where_PS] = make(resid_PSD[where_PS])
        return out

    return edit


def evaluate(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, n_tokens: int, n_ce_tokens: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All metrics of an SAE on held-out text that its θ was not calibrated on."""
    calibration, evaluation = held_out_contexts(corpus, n_tokens)
    stages = _stages(corpus, calibration, evaluation, n_ce_tokens, progress)
    mean_D = torch.cat(list(residuals(lm, corpus, calibration, sae.hook, stages[0]))).mean(dim=0)
    return _evaluate(lm, sae, corpus, evaluation, n_ce_tokens, mean_D, stages[1:])


def calibrate_and_evaluate(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, n_tokens: int, n_ce_tokens: int,
    progress: Progress | None = None,
) -> None:
    """Set θ so that the mean L0 is k on one half of the held-out text, where the SAE has one, and
    measure everything on the other half.  Results go into `sae.config`: threshold, metrics."""
    calibration, evaluation = held_out_contexts(corpus, n_tokens)
    stages = _stages(corpus, calibration, evaluation, n_ce_tokens, progress)
    activations = list(residuals(lm, corpus, calibration, sae.hook, stages[0]))
    trained = sae.sparsity.threshold
    if sae.sparsity.has_threshold and trained is not None:
        calibrated = calibrate_threshold(sae, activations, sae.k)
        sae.sparsity.threshold = calibrated
        sae.config["threshold"] |= {
            "calibrated": calibrated, "l0_trained": mean_l0(sae, activations, trained),
            "l0_calibrated": mean_l0(sae, activations, calibrated), "calibration_tokens": sum(map(len, activations))}
    mean_D = torch.cat(activations).mean(dim=0)
    sae.config["metrics"] = _evaluate(lm, sae, corpus, evaluation, n_ce_tokens, mean_D, stages[1:])


def _evaluate(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, n_ce_tokens: int, mean_D: Tensor,
    stages: list[Progress],
) -> dict[str, Any]:
    metrics = reconstruction_metrics(sae, residuals(lm, corpus, contexts, sae.hook, stages[0]))
    for_ce = _first_tokens(corpus, contexts, n_ce_tokens)
    return {**metrics, **cross_entropy_metrics(lm, sae, corpus, for_ce, mean_D, stages[1])}


def _stages(
    corpus: Corpus, calibration: np.ndarray, evaluation: np.ndarray, n_ce_tokens: int, progress: Progress | None
) -> list[Progress]:
    """Progress of calibration, reconstruction and ΔCE as parts of one whole; a token of ΔCE counts
    sixfold, because the whole language model reads it four times."""
    ce = _first_tokens(corpus, evaluation, n_ce_tokens)
    sizes = [counted_tokens(corpus, contexts) for contexts in (calibration, evaluation, ce)]
    sizes[2] *= 6
    starts, total = [0, sizes[0], sizes[0] + sizes[1]], sum(sizes)

    def stage(start: int, size: int) -> Progress:
        def tell(done: int, of: int) -> None:
            if progress:
                progress(start + size * done // max(of, 1), total)
        return tell

    return [stage(start, size) for start, size in zip(starts, sizes, strict=True)]
