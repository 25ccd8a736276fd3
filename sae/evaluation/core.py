"""The core measure: reconstruction, sparsity, and what replacing activations does to the language model.

The definitions stand in `DEFINITIONS`.  They follow SAEBench's core evaluation where its formulas are right:

    explained variance  is centred with sums over all tokens; SAEBench subtracts a mean of squares instead
    KL                  is computed by log-softmax, so that it stays finite
    ablation            never touches BOS
    mse                 is divided once by the number of tokens

SAELens' own evaluation (6.54) gives the same numbers to 1e-4 but for these, and for each the cause is known exactly:

    KL                  SAELens also averages the last position of a context, which predicts no token that is there
    ablation at zero    SAELens sets BOS to zero, too, although it leaves BOS out of the average (CE and KL)
    bias of the norm    SAELens averages the quotients of batches; here it is one quotient of sums over all tokens

Shapes: N tokens, P contexts, B blocks of contexts, L latents, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.evaluation.compare import nearest_between
from sae.evaluation.intervals import Numbers, jackknife
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.metrics import ReconstructionSums, counted_tokens, left_out_of
from sae.evaluation.reading import TokenBatch, first_contexts, read_tokens, stages
from sae.evaluation.substitution import ABLATIONS, SubstitutionSums, recovered, substitution_sums
from sae.kernels.codes import Codes
from sae.kernels.device import wide

DEFINITIONS: dict[str, str] = {
    "fvu": "Fraction of variance unexplained: Σ‖x − x̂‖² / Σ‖x − mean‖² over all tokens; 0 is perfect.",
    "explained_variance": "1 − FVU: the share of the variance around the mean that the reconstruction explains.",
    "explained_variance_legacy":
        "Mean over tokens of 1 − ‖x − x̂‖² / ‖x − block mean‖²; older papers plot this number.",
    "nmse": "Σ‖x − x̂‖² / Σ‖x‖² over all tokens, without subtraction of a mean.",
    "mse": "Mean over tokens of ‖x − x̂‖², in squared units of the activations.",
    "cossim": "Mean over tokens of the cosine between an activation and its reconstruction.",
    "l2_norm_in": "Mean norm ‖x‖ of the activations that are reconstructed.",
    "l2_norm_out": "Mean norm ‖x̂‖ of the reconstructions.",
    "l2_ratio": "Mean over tokens of ‖x̂‖ / ‖x‖; below 1 the reconstruction shrinks activations.",
    "relative_reconstruction_bias":
        "Σ‖x̂‖² / Σ x·x̂ over all tokens: 1 if no rescaling of x̂ would improve it, below 1 for shrinkage (Rajamanoharan "
        "et al. 2024).",
    "l0": "Mean number of active latents per token.",
    "l0_std": "Standard deviation of the number of active latents over tokens.",
    "l1": "Mean over tokens of the sum of activations, in the SAE's units, for decoder rows of unit norm.",
    "alive_share": "Share of latents that fire at least once on the tokens read.",
    "freq_over_1_percent": "Share of latents that fire on more than 1% of tokens.",
    "freq_over_10_percent": "Share of latents that fire on more than 10% of tokens.",
    "normalized_freq_over_1_percent":
        "Share of all firings that belong to latents that fire on more than 1% of tokens.",
    "normalized_freq_over_10_percent":
        "Share of all firings that belong to latents that fire on more than 10% of tokens.",
    "average_max_encoder_cosine_sim": "Mean over latents of the highest cosine of its encoder row with another one.",
    "average_max_decoder_cosine_sim": "Mean over latents of the highest cosine of its decoder row with another one.",
    "encoder_decoder_cosine": "Mean over latents of the cosine between its encoder row and its decoder row.",
    "ce_clean": "Cross-entropy of the unchanged language model, in nats per predicted token.",
    "ce_sae": "Cross-entropy with the activations replaced by their reconstruction.",
    "ce_zero": "Cross-entropy with the activations replaced by zero, except on BOS, which SAELens replaces, too.",
    "ce_mean": "Cross-entropy with the activations replaced by their mean, except on BOS.",
    "delta_ce": "Cross-entropy with the reconstruction minus the clean cross-entropy, in nats.",
    "ce_recovered_zero": "(CE zero-ablated − CE with SAE) / (CE zero-ablated − CE clean); 1 is perfect.",
    "ce_recovered_mean": "(CE mean-ablated − CE with SAE) / (CE mean-ablated − CE clean); 1 is perfect.",
    "kl_sae":
        "KL divergence of next-token distributions, unchanged ‖ with reconstruction, in nats. Mean over positions "
        "whose next token is in the context; SAELens also counts the last position.",
    "kl_zero":
        "KL divergence of next-token distributions, unchanged ‖ zero-ablated except on BOS, in nats. SAELens also "
        "replaces BOS, and counts the last position.",
    "kl_mean": "KL divergence of next-token distributions, unchanged ‖ mean-ablated, in nats.",
    "kl_recovered_zero": "1 − KL with SAE / KL zero-ablated; 1 is perfect.",
    "kl_recovered_mean": "1 − KL with SAE / KL mean-ablated; 1 is perfect.",
}
_MIN_BLOCKS, _MAX_BLOCKS, _BLOCK_CONTEXTS = 20, 100, 16  # SAEBench's batch has 16 contexts, too
_CE_COST = 7.5  # a token of ΔCE goes through the whole model five times


@dataclass
class CoreSums(ReconstructionSums):
    """Accumulators of everything that is measured on activations alone."""

    l1: float = 0.0
    cosine: float = 0.0
    ratio: float = 0.0
    norm_in: float = 0.0
    norm_out: float = 0.0
    cross: float = 0.0  # Σ x·x̂
    square_out: float = 0.0
    legacy: float = 0.0
    contexts_L: Tensor | None = None  # contexts in which each latent fires

    def add_batch(self, batch: TokenBatch, codes: Codes, x_hat_ND: Tensor) -> None:
        """Add one block of whole contexts."""
        x_ND = batch.target_ND
        self.add(x_ND, x_hat_ND, codes)
        norm_N, out_N = wide(x_ND).norm(dim=1), wide(x_hat_ND).norm(dim=1)
        self.l1 += float(wide(codes.value_N).sum())
        self.cosine += float(wide(F.cosine_similarity(x_ND, x_hat_ND, dim=1)).sum())
        self.ratio += float((out_N / norm_N.clamp(min=1e-12)).sum())
        self.norm_in, self.norm_out = self.norm_in + float(norm_N.sum()), self.norm_out + float(out_N.sum())
        self.cross += float((wide(x_ND) * wide(x_hat_ND)).sum())
        self.square_out += float(out_N.square().sum())
        error_N = wide(x_ND - x_hat_ND).square().sum(dim=1)
        around_N = (wide(x_ND) - wide(x_ND).mean(dim=0)).square().sum(dim=1)
        self.legacy += float((1 - error_N / around_N.clamp(min=1e-12)).sum())
        _, row_N = torch.unique(batch.context_N, return_inverse=True)
        pair = torch.unique(row_N.to(codes.latent_N.device)[codes.token_N] * codes.n_latents + codes.latent_N)
        self.contexts_L = torch.bincount(pair % codes.n_latents, minlength=codes.n_latents)

    def combined(self, other: CoreSums, sign: int = 1) -> CoreSums:
        """Return the sums over both texts, or with sign −1 the sums without the other text."""
        def both(a: Any, b: Any) -> Any:
            return b if a is None else a if b is None else a + sign * b

        return replace(self, **{f.name: both(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)})

    def numbers(self) -> dict[str, float | None]:
        """Return the values that follow from the sums; none if there is no token."""
        if not self.n:
            return {}
        assert self.fires_L is not None
        density_L = wide(self.fires_L) / self.n
        firings = float(density_L.sum())
        found = self.metrics()
        values: dict[str, float | None] = {
            "fvu": _share(self.error, self.variance), "explained_variance": _share(
                self.variance - self.error, self.variance),
            "explained_variance_legacy": self.legacy / self.n, "nmse": _share(self.error, self.square),
            "mse": self.error / self.n, "cossim": self.cosine / self.n, "l2_norm_in": self.norm_in / self.n,
            "l2_norm_out": self.norm_out / self.n, "l2_ratio": self.ratio / self.n,
            "relative_reconstruction_bias": _share(self.square_out, self.cross), "l0": found["l0"],
            "l0_std": found["l0_std"], "l1": self.l1 / self.n, "alive_share": 1 - found["dead_fraction"]}
        for percent in (1, 10):
            often_L = density_L > percent / 100
            values[f"freq_over_{percent}_percent"] = float(wide(often_L).mean())
            values[f"normalized_freq_over_{percent}_percent"] = _share(float(density_L[often_L].sum()), firings)
        return values


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True)
class Core:
    """Reconstruction, sparsity, density, cosines of directions, ΔCE and KL."""

    n_tokens: int = 50_000  # read for reconstruction and sparsity
    ce_tokens: int = 8_192  # read for ΔCE and KL, by the whole language model
    name: str = "core"

    def refuse(self, subject: Subject) -> str | None:
        if len(subject.contexts) < 2:
            return f"core: {len(subject.contexts)} held-out contexts are too few; at least 2 are needed"
        return None

    def run(self, subject: Subject, progress: Progress) -> Result:
        contexts, for_ce = first_contexts(subject, self.n_tokens), first_contexts(subject, self.ce_tokens)
        n_ce = counted_tokens(subject.corpus, for_ce)
        reading, ce = stages(progress, counted_tokens(subject.corpus, contexts), _CE_COST * n_ce)
        blocks = core_blocks(subject, contexts, reading)
        total = _sum(blocks)
        assert total.total_D is not None
        mean_D = (total.total_D / max(total.n, 1)).float().to(subject.model.device)
        losses = substitution_sums(subject.model, [subject.sae], subject.corpus, for_ce, mean_D, ce,
                                   left_out=left_out_of(subject.sae), with_kl=True)
        values = jackknife(lambda i: (total if i is None else total.combined(blocks[i], -1)).numbers(), len(blocks))
        values["alive_share"] = Value("alive_share", values["alive_share"].value)  # it grows with the text read
        substituted = jackknife(lambda i: substitution_numbers(losses, i), len(losses.predicted_P))
        cosines, columns = direction_cosines(subject, lambda: ce(n_ce, n_ce))
        n_predicted = int(losses.predicted_P.sum())
        return Result(self.name, (
            *(replace(value, n=total.n) for value in values.values()), *cosines,
            *(replace(value, n=n_predicted) for value in substituted.values())),
            {"tokens": total.n, "ce_tokens": n_predicted, "contexts": len(contexts), "blocks": len(blocks),
             "latents": {**_per_latent(total), **columns}})


def core_blocks(subject: Subject, contexts: np.ndarray, progress: Progress) -> list[CoreSums]:
    """Return the sums over consecutive blocks of contexts, by which intervals are computed."""
    per_block = min(_BLOCK_CONTEXTS, max(1, len(contexts) // _MIN_BLOCKS))
    per_block = max(per_block, -(-len(contexts) // _MAX_BLOCKS))
    blocks = []
    for batch in read_tokens(subject, contexts, progress, max_tokens=per_block * subject.corpus.context_length):
        codes = subject.sae.codes(batch.x_ND)
        block = CoreSums()
        if len(batch.x_ND):  # all tokens of a block can be left out
            block.add_batch(batch, codes, subject.sae.decode(codes, batch.x_ND))
            blocks.append(block)
    return blocks


def _sum(blocks: Iterable[CoreSums]) -> CoreSums:
    total = CoreSums()
    for block in blocks:
        total = total.combined(block)
    return total


def substitution_numbers(sums: SubstitutionSums, without: int | None = None) -> Numbers:
    """Return CE and KL in nats per predicted token, and the shares recovered, optionally without one context."""
    def mean(sum_P: np.ndarray) -> float:
        n = sums.predicted_P.sum() - (0 if without is None else sums.predicted_P[without])
        return float((sum_P.sum() - (0 if without is None else sum_P[without])) / n) if n else float("nan")

    ce = {name: mean(sum_P) for name, sum_P in sums.ce.items()}
    kl = {name: mean(sum_P) for name, sum_P in sums.kl.items()}
    numbers: dict[str, float | None] = {"ce_sae": ce[0], "delta_ce": ce[0] - ce["clean"], "kl_sae": kl[0]}
    numbers |= {f"ce_{name}": ce[name] for name in ABLATIONS}
    for name in ABLATIONS[1:]:
        numbers |= {f"kl_{name}": kl[name], f"ce_recovered_{name}": recovered(ce[name], ce[0], ce["clean"]),
                    f"kl_recovered_{name}": recovered(kl[name], kl[0], 0.0)}
    return numbers


def direction_cosines(subject: Subject, check: Callable[[], None]) -> tuple[list[Value], dict[str, list[float]]]:
    """Return the mean cosines of encoder and decoder rows, and the columns of each latent's own ones."""
    sae, values, columns = subject.sae, [], {}
    for side, W_LD in (("encoder", sae.W_enc_LD), ("decoder", sae.W_dec_LD)):
        numbers_L2, cosine_L2 = nearest_between(W_LD, W_LD, 2, check)
        if numbers_L2.shape[1] < 2:
            continue
        itself_L = numbers_L2[:, 0] == torch.arange(len(numbers_L2))
        highest_L = torch.where(itself_L, cosine_L2[:, 1], cosine_L2[:, 0])
        values.append(Value(f"average_max_{side}_cosine_sim", float(wide(highest_L).mean()), n=sae.n_latents))
        columns[f"max_{side}_cosine_sim"] = _rounded(highest_L)
    if sae.W_enc_LD.shape == sae.W_dec_LD.shape:
        own_L = F.cosine_similarity(sae.W_enc_LD, sae.W_dec_LD, dim=1)
        values.append(Value("encoder_decoder_cosine", float(wide(own_L).mean()), n=sae.n_latents))
        columns["encoder_decoder_cosine_sim"] = _rounded(own_L)
    columns["encoder_norm"] = _rounded(sae.W_enc_LD.norm(dim=1))
    columns["encoder_bias"] = _rounded(sae.b_enc_L)
    return values, columns


def _rounded(column_L: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in column_L.tolist()]


def _per_latent(total: CoreSums) -> dict[str, list[Any]]:
    """Return each latent's density, and its firings per context in which it fires."""
    assert total.fires_L is not None
    assert total.contexts_L is not None
    per_context = _rounded(total.fires_L / total.contexts_L.clamp(min=1))
    return {"feature_density": _rounded(wide(total.fires_L) / total.n), "consistent_activation_heuristic": [
        found if n else None for found, n in zip(per_context, total.contexts_L.tolist(), strict=True)]}
