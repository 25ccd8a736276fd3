"""Metrics of an SAE on held-out text (FVU, L0, dead latents, ΔCE), and the calibration of θ.

Every metric is over *counted* tokens: real positions except BOS, whether or not the SAE was trained
on BOS, and except the tokens that its training left out.  x is the target of the reconstruction, which is
the input except for a transcoder.  Definitions:

    FVU     Σ‖x − x_hat‖² / Σ‖x − x_mean‖², one mean over the same tokens, sums in float64
    L0      active latents per token
    dead    latents that fire on none of the tokens
    ΔCE     CE with the activations replaced by their reconstruction, minus clean CE (nats per
            predicted token); BOS and padding are never replaced and never averaged
    CE recovered  (CE_ablated − CE_sae) / (CE_ablated − CE_clean), for zero and for mean ablation

Sums are accumulated over all tokens before any division.  Several SAEs of one site share one pass over
its activations.

Shapes: N tokens, P contexts, S positions, D width, W width of the SAE's sites concatenated (a transcoder
has two), L latents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.autoencoder.artefact import Autoencoder
from sae.data.activations import forward_rows
from sae.data.corpus import Corpus
from sae.data.left_out import NOTHING, LeftOut
from sae.errors import UserError
from sae.evaluation.substitution import ABLATIONS, recovered, substitution_sums
from sae.kernels.codes import Codes
from sae.kernels.device import wide
from sae.kernels.select import batch_topk
from sae.kernels.threshold import kth_largest
from sae.lm.bridge import LanguageModel
from sae.lm.fast_reader import reader

_MANY_TOKENS = 8192  # from which the choice of a reader takes less time than it saves
Progress = Callable[[int, int], None]  # called with tokens done and tokens in total; may raise to stop


def held_out_contexts(corpus: Corpus, n_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two disjoint sets of held-out contexts, for calibration and for evaluation.

    Each has about `n_tokens` counted tokens, or half of the held-out text if that is less.
    Raises UserError (field `text`) if fewer than two contexts are held out.
    """
    contexts = corpus.contexts("held_out", seed)
    if len(contexts) < 2:
        raise UserError(
            f"text: {corpus.n_contexts} contexts of {corpus.context_length} tokens are too few: {len(contexts)} held "
            "out, but calibration and evaluation need one each; give more text or a shorter context_length", "text")
    return (_first_tokens(corpus, contexts[0::2], n_tokens), _first_tokens(corpus, contexts[1::2], n_tokens))


def _first_tokens(corpus: Corpus, contexts: np.ndarray, n_tokens: int) -> np.ndarray:
    counted = np.cumsum(corpus.length[contexts].astype(np.int64) - 1)
    return contexts[: int(np.searchsorted(counted, n_tokens)) + 1]


def counted_tokens(corpus: Corpus, contexts: np.ndarray) -> int:
    return int((corpus.length[contexts].astype(np.int64) - 1).sum())


def counted_rows(
    lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hooks: Sequence[str], progress: Progress | None = None,
    left_out: LeftOut = NOTHING,
) -> Iterator[Tensor]:
    """Yield the activations of the counted tokens, one forward pass at a time: [N, W] float32.

    The activations of several sites are concatenated.
    """
    total, done = counted_tokens(corpus, contexts), 0
    read = reader(lm, hooks) if total >= _MANY_TOKENS else None
    for rows_NW in forward_rows(lm, corpus, contexts, hooks, include_bos=False, read=read, left_out=left_out):
        done += len(rows_NW)
        if progress:
            progress(min(done, total), total)
        yield rows_NW


def residuals(
    lm: LanguageModel, corpus: Corpus, contexts: np.ndarray, hook: str, progress: Progress | None = None
) -> Iterator[Tensor]:
    """Yield the activations of the counted tokens at one site: [N, D] float32."""
    return counted_rows(lm, corpus, contexts, [hook], progress)


def sites(sae: Autoencoder) -> list[str]:
    """Return the hook points of an SAE: one, or two for a transcoder."""
    return [sae.hook, sae.out_hook] if sae.is_transcoder else [sae.hook]


def left_out_of(sae: Autoencoder) -> LeftOut:
    """Return which tokens the SAE's training left out."""
    return LeftOut.recorded(sae.config.get("left_out"))


def read_and_target(sae: Autoencoder, rows_NW: Tensor) -> tuple[Tensor, Tensor]:
    """Split activations at the SAE's sites into its input and its target."""
    d_in = len(sae.b_in_D)
    return rows_NW[:, :d_in], rows_NW[:, d_in:] if sae.is_transcoder else rows_NW


def calibrate_threshold(sae: Autoencoder, activations: list[Tensor], k: int) -> float:
    """Return the θ at which the mean L0 of these activations is k.

    θ is between the k·N-th largest pre-activation and the next one, and a latent is active if it is
    strictly above.  The result is exact, though not all pre-activations are kept: each batch keeps its
    strongest ones, and keeps more of them until the weakest kept value of every batch is below θ.
    """
    return _cut(sae, activations, k)[0]


def _cut(sae: Autoencoder, activations: list[Tensor], k: int) -> tuple[float, Tensor, float]:
    """Return θ (`calibrate_threshold`), the strongest positive pre-activations, and a number above which these are all.
    """
    batches = [part for x_ND in activations for part in sae.pieces(x_ND)]
    n_tokens = sum(map(len, batches))
    factor = 2
    while True:
        wanted = [factor * k * len(x_ND) for x_ND in batches]
        kept = [batch_topk(sae.pre_activations(x_ND), min(n, len(x_ND) * sae.n_latents)).value_N
                for x_ND, n in zip(batches, wanted, strict=True)]
        # A batch that returned fewer than requested has returned all its positive values.
        floor = max((float(values.min()) for values, n in zip(kept, wanted, strict=True) if len(values) == n),
                    default=0.0)
        values = torch.cat(kept)
        if len(values) <= k * n_tokens:
            if not floor:
                return 0.0, values, floor  # fewer than k positive pre-activations per token, so there is nothing to cut
        else:
            kth, following = (float(kth_largest(values, n)) for n in (k * n_tokens, k * n_tokens + 1))
            if kth > floor:
                middle = float(np.float32((kth + following) / 2))
                return middle if middle < kth else following, values, floor  # rounding can reach `kth`
        factor *= 2


@dataclass
class ReconstructionSums:
    """Accumulators of activations and their reconstructions, which can be added and subtracted."""

    n: int = 0
    error: float = 0.0
    square: float = 0.0
    l0: float = 0.0
    l0_square: float = 0.0
    total_D: Tensor | None = None
    fires_L: Tensor | None = None  # tokens on which each latent is active

    def add(self, x_ND: Tensor, x_hat_ND: Tensor, codes: Codes) -> None:
        """Add some tokens: their targets, their reconstructions and their codes."""
        self.n += len(x_ND)
        # Squares of float32 activations summed in float64: per token first, then over tokens.
        self.error += float(wide(x_ND - x_hat_ND).square().sum())
        self.square += float(wide(x_ND).square().sum())
        l0_N = codes.l0_B()
        self.l0 += float(l0_N.sum())
        self.l0_square += float(wide(l0_N).square().sum())
        total_D = wide(x_ND).sum(dim=0)
        self.total_D = total_D if self.total_D is None else self.total_D + total_D
        fires_L = torch.bincount(codes.latent_N, minlength=codes.n_latents)
        self.fires_L = fires_L if self.fires_L is None else self.fires_L + fires_L

    @property
    def variance(self) -> float:
        """Return Σ‖x − x_mean‖²."""
        assert self.total_D is not None
        return self.square - float(self.total_D.square().sum()) / self.n

    @property
    def fvu(self) -> float:
        return self.error / self.variance

    def metrics(self) -> dict[str, Any]:
        assert self.fires_L is not None
        dead, mean = int((self.fires_L == 0).sum()), self.l0 / self.n
        return {
            "fvu": self.fvu, "l0": mean, "l0_std": max(0.0, self.l0_square / self.n - mean**2) ** 0.5,
            "dead": dead, "dead_fraction": dead / len(self.fires_L), "tokens": self.n}


def reconstruction_metrics(sae: Autoencoder, activations: Iterable[Tensor]) -> dict[str, Any]:
    """Compute FVU, L0 and dead latents over a stream of activations at the SAE's sites [N, W]."""
    return reconstruction_metrics_of([sae], activations)[0]


def reconstruction_metrics_of(saes: Sequence[Autoencoder], activations: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Compute the reconstruction metrics of several SAEs in one pass over the activations."""
    all_sums = [ReconstructionSums() for _ in saes]
    for rows_NW in activations:
        for sae, sums in zip(saes, all_sums, strict=True):
            x_ND, target_ND = read_and_target(sae, rows_NW)
            normalized = sae.normalizer.apply(x_ND)
            codes, _ = sae.codes_and_misses(x_ND, 0.0, normalized)  # without a float32 product of all pairs
            sums.add(target_ND, sae.decode(codes, x_ND, normalized), codes)
    return [sums.metrics() for sums in all_sums]


def mean_l0(sae: Autoencoder, activations: list[Tensor], threshold: float) -> float:
    """Return the mean L0 that a threshold gives on these activations."""
    batches = (part for x_ND in activations for part in sae.pieces(x_ND))
    fired = sum(int((sae.pre_activations(x_ND) > max(threshold, 0.0)).sum()) for x_ND in batches)
    return fired / sum(len(x_ND) for x_ND in activations)


def cross_entropy_metrics(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, mean_D: Tensor,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute ΔCE and CE recovered.  `mean_D` is the mean of the target, for mean ablation."""
    return cross_entropy_metrics_of(lm, [sae], corpus, contexts, mean_D, progress)[0]


def cross_entropy_metrics_of(
    lm: LanguageModel, saes: Sequence[Autoencoder], corpus: Corpus, contexts: np.ndarray, mean_D: Tensor,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compute ΔCE and CE recovered for several SAEs of one site, which share the clean and the ablated passes."""
    sums = substitution_sums(lm, saes, corpus, contexts, mean_D, progress, left_out=left_out_of(saes[0]))
    n_predicted = int(sums.predicted_P.sum())
    clean, zeroed, averaged = (float(sums.ce[name].sum()) / n_predicted for name in ABLATIONS)
    return [{
        "ce_clean": clean, "ce_sae": ce, "delta_ce": ce - clean, "ce_zero": zeroed, "ce_mean": averaged,
        "ce_recovered_zero": recovered(zeroed, ce, clean), "ce_recovered_mean": recovered(averaged, ce, clean),
        "ce_tokens": n_predicted} for ce in (float(sums.ce[i].sum()) / n_predicted for i in range(len(saes)))]


def evaluate(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, n_tokens: int, n_ce_tokens: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compute all metrics of an SAE on held-out text that its θ was not calibrated on."""
    calibration, evaluation = held_out_contexts(corpus, n_tokens)
    stages = _stages(corpus, calibration, evaluation, n_ce_tokens, 1, progress)
    rows_NW = torch.cat(list(counted_rows(lm, corpus, calibration, sites(sae), stages[0], left_out_of(sae))))
    return _evaluate(lm, [sae], corpus, evaluation, n_ce_tokens, read_and_target(sae, rows_NW)[1], stages[1:])[0]


def calibrate_and_evaluate(
    lm: LanguageModel, saes: Sequence[Autoencoder], corpus: Corpus, n_tokens: int, n_ce_tokens: int,
    progress: Progress | None = None,
) -> None:
    """Calibrate θ on one half of the held-out text, and compute all metrics on the other half.

    θ is set so that the mean L0 is k, for SAEs that have a θ.  The SAEs must belong to one site.  The
    results are stored in each SAE's `config`, under `threshold` and `metrics`.
    """
    calibration, evaluation = held_out_contexts(corpus, n_tokens)
    stages = _stages(corpus, calibration, evaluation, n_ce_tokens, len(saes), progress)
    rows = list(counted_rows(lm, corpus, calibration, sites(saes[0]), stages[0], left_out_of(saes[0])))
    for sae in saes:
        _calibrate(sae, [read_and_target(sae, rows_NW)[0] for rows_NW in rows])
    target_ND = torch.cat([read_and_target(saes[0], rows_NW)[1] for rows_NW in rows])
    metrics = _evaluate(lm, saes, corpus, evaluation, n_ce_tokens, target_ND, stages[1:])
    for sae, found in zip(saes, metrics, strict=True):
        sae.config["metrics"] = found


def _calibrate(sae: Autoencoder, activations: list[Tensor]) -> None:
    trained = sae.sparsity.threshold
    if not sae.sparsity.has_threshold or trained is None:
        return
    calibrated, values, floor = _cut(sae, activations, sae.k)
    n_tokens = sum(map(len, activations))

    def l0(threshold: float) -> float:
        if threshold < floor:
            return mean_l0(sae, activations, threshold)
        return int((values > max(threshold, 0.0)).sum()) / n_tokens

    sae.sparsity.threshold = calibrated
    sae.config["threshold"] |= {
        "calibrated": calibrated, "l0_trained": l0(trained), "l0_calibrated": l0(calibrated),
        "calibration_tokens": n_tokens}


def _evaluate(
    lm: LanguageModel, saes: Sequence[Autoencoder], corpus: Corpus, contexts: np.ndarray, n_ce_tokens: int,
    target_ND: Tensor, stages: list[Progress],
) -> list[dict[str, Any]]:
    """Compute all metrics.  `target_ND` holds targets on other text, whose mean is used by mean ablation."""
    rows = counted_rows(lm, corpus, contexts, sites(saes[0]), stages[0], left_out_of(saes[0]))
    metrics = reconstruction_metrics_of(saes, rows)
    if lm.info.items:  # vectors lead to no logits
        return metrics
    for_ce = _first_tokens(corpus, contexts, n_ce_tokens)
    ce = cross_entropy_metrics_of(lm, saes, corpus, for_ce, target_ND.mean(dim=0), stages[1])
    return [{**one, **other} for one, other in zip(metrics, ce, strict=True)]


def _stages(
    corpus: Corpus, calibration: np.ndarray, evaluation: np.ndarray, n_ce_tokens: int, n_saes: int,
    progress: Progress | None,
) -> list[Progress]:
    """Return the progress callbacks of calibration, reconstruction and ΔCE as parts of one whole.

    A token of ΔCE counts 1.5 times for each pass, because it goes through the whole language model.
    """
    ce = _first_tokens(corpus, evaluation, n_ce_tokens)
    sizes = [counted_tokens(corpus, contexts) for contexts in (calibration, evaluation, ce)]
    sizes[1], sizes[2] = sizes[1] * n_saes, sizes[2] * (len(ABLATIONS) + n_saes) * 3 // 2
    starts, total = [0, sizes[0], sizes[0] + sizes[1]], sum(sizes)

    def stage(start: int, size: int) -> Progress:
        def report(done: int, of: int) -> None:
            if progress:
                progress(start + size * done // max(of, 1), total)
        return report

    return [stage(start, size) for start, size in zip(starts, sizes, strict=True)]
