"""The stability of a dictionary between seeds: how many of its directions another training finds again.

MMCS is the mean over alive latents of the largest cosine with an alive latent of the other SAE (Sharkey et al. 2022).
The same with random directions in place of the other SAE is the anchor.

Shapes: L latents, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae.evaluation.compare import nearest_between
from sae.evaluation.intervals import student_quantile
from sae.evaluation.measure import Progress, Result, Subject, Value
from sae.evaluation.siblings import alive_of, load, of_other_seeds

SHARED = 0.7  # cosine from which two latents count as one, as in Leask et al. 2025
_BINS = 20

DEFINITIONS = {
    "mmcs": "Mean over alive latents of the largest cosine with an alive latent of an SAE trained with another seed.",
    "mmcs_random": "The same mean with as many random directions in place of the other SAE.",
    "shared": "Share of alive latents whose largest cosine with a latent of another seed is at least 0.7."}


class Stability:
    """MMCS between the subject and the SAEs of other seeds that are in its workspace."""

    name = "stability"

    def refuse(self, subject: Subject) -> str | None:
        """Return why there is nothing to compare with, or None."""
        if of_other_seeds(subject):
            return None
        return "stability needs a second SAE whose training differs in the seed alone; train one with another --seed"

    def run(self, subject: Subject, progress: Progress) -> Result:
        """Compare the subject with every SAE of another seed.  Intervals are over those SAEs."""
        found = of_other_seeds(subject)
        others = [load(folder, subject) for _, folder in found]
        alive = alive_of(subject, [subject.sae, *others], progress)
        mine_MD = subject.sae.W_dec_LD[alive[0]]
        best = [largest_cosines(mine_MD, sae.W_dec_LD[alive_L])
                for sae, alive_L in zip(others, alive[1:], strict=True)]
        generator = torch.Generator().manual_seed(subject.seed)
        random_MD = torch.randn(mine_MD.shape, generator=generator).to(mine_MD.device)
        counts = torch.histc(torch.cat(best).clamp(0, 1), _BINS, 0.0, 1.0).long().tolist() if len(mine_MD) else []
        return Result(self.name, (
            _over("mmcs", [float(one.mean()) for one in best]),
            Value("mmcs_random", float(largest_cosines(mine_MD, random_MD).mean()), n=len(mine_MD)),
            _over("shared", [float((one >= SHARED).double().mean()) for one in best]),
        ), {"saes": [name for name, _ in found], "alive": len(mine_MD), "histogram_of_largest_cosines": counts})


def largest_cosines(W_AD: Tensor, W_BD: Tensor) -> Tensor:
    """Return the largest cosine of each row of one matrix with the rows of another, in float64 on the CPU: [A]."""
    if not len(W_AD) or not len(W_BD):
        return torch.zeros(len(W_AD), dtype=torch.float64)
    return nearest_between(W_AD, W_BD, 1)[1][:, 0].double()


def _over(key: str, values: list[float]) -> Value:
    """Return the mean over SAEs of other seeds, with Student's interval from two of them on."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Value(key, mean, n=len(values), note="one other seed; an interval needs two")
    spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    half = student_quantile(len(values) - 1) * spread / len(values) ** 0.5
    return Value(key, mean, mean - half, mean + half, len(values))
