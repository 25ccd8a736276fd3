"""The shared structure of decoder rows: the variance that a small SAE of them explains (SAEBench's meta_structure).

The rows are given unit norm and their mean is subtracted, so that the number does not depend on scale.  The meta-SAE is
a BatchTopK SAE with a quarter of the latents and k = 4, trained by this program's trainer.  A low share means that the
latents are more atomic.  Random rows of the same shape are the anchor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.kernels.device import wide
from sae.specs.registry import TrainSpec
from sae.training.loop import StoredActivations, artefact, train

_WIDTH, _K, _LR = 4, 4, 5e-4  # SAEBench's: latents for each meta-latent, active ones, learning rate at 1,500 steps

DEFINITIONS = {
    "decoder_fraction_variance_explained": "Share of the variance of the unit decoder rows that a BatchTopK SAE with a "
    "quarter as many latents and k = 4 explains.",
    "random_fraction_variance_explained": "The same share for random directions of the same shape."}


class MetaSae:
    """A meta-SAE of the subject's decoder and one of random rows, which use `steps` batches of at most `rows` rows."""

    name = "meta_sae"

    def __init__(self, steps: int = 1_000, rows: int = 256) -> None:
        self.steps, self.rows = steps, rows

    def refuse(self, subject: Subject) -> str | None:
        """Return why the dictionary is too small for a meta-SAE, or None."""
        n = subject.sae.n_latents
        return None if n >= 64 else f"a meta-SAE needs at least 64 latents; this dictionary has {n}"

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Train both meta-SAEs.  Their share is over all rows that they were trained on, as in SAEBench."""
        generator = torch.Generator().manual_seed(subject.seed)
        own_LD = subject.sae.W_dec_LD.detach().float()
        random_LD = torch.randn(own_LD.shape, generator=generator).to(own_LD.device)
        shares = [self._explained(own_LD, subject.seed, lambda done: progress(done, 2 * self.steps)),
                  self._explained(random_LD, subject.seed, lambda done: progress(self.steps + done, 2 * self.steps))]
        keys = ("decoder_fraction_variance_explained", "random_fraction_variance_explained")
        return Result(self.name, tuple(
            Value(key, value, n=len(own_LD)) for key, value in zip(keys, shares, strict=True)),
            {"meta_latents": len(own_LD) // _WIDTH, "k": _K, "steps": self.steps})

    def _explained(self, W_LD: Tensor, seed: int, update: Callable[[int], None]) -> float:
        rows_LD = centred_unit_rows(W_LD)
        batch = min(self.rows, len(rows_LD))
        spec = TrainSpec(architecture="batch_topk", n_latents=len(rows_LD) // _WIDTH, k=_K, normalize="dataset",
                         tokens=max(1_000, self.steps * batch), batch_tokens=batch, lr=_LR, seed=seed)
        trained = train(spec, StoredActivations(rows_LD, batch, seed), rows_LD.device,
                        update=lambda tokens: update(min(tokens // batch, self.steps)))
        meta = artefact(trained, {"architecture": "batch_topk", "normalize": "dataset", "k": _K})
        error = wide(rows_LD - meta.reconstruct(rows_LD)).square().sum()
        return 1 - float(error / wide(rows_LD).square().sum())


def centred_unit_rows(W_LD: Tensor) -> Tensor:
    """Return the rows with unit norm, minus their mean."""
    unit_LD = torch.nn.functional.normalize(W_LD, dim=1)
    return unit_LD - unit_LD.mean(dim=0)
