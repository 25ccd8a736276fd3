"""Statistics of a sample of the data, measured before the first step, from which an SAE starts.

Shapes: N tokens, D width, E a transcoder's input width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DataStatistics:
    """The statistics of the data that an SAE needs.

    `b_in_D` is for transcoders only: their input has another centre than their target. `variance` is the variance of a
    token of the target, Σ_d.  `input_scale` is the root mean square of a coordinate of the centred input, and so the
    spread of the pre-activation of a random unit row. `cross_ED` is for transcoders, too: the covariance of input and
    target, E (y − b_in)ᵀ(t − b_dec). A latent that reads w starts by writing in the direction w · cross.
    """

    b_dec_D: Tensor
    variance: float
    input_scale: float
    b_in_D: Tensor | None = None
    cross_ED: Tensor | None = None

    @classmethod
    def measure(
        cls, y_ND: Tensor, target_ND: Tensor | None = None, b_dec_init: str = "geometric_median"
    ) -> DataStatistics:
        """Measure a sample of normalised activations, and of the targets if they differ."""
        centre = geometric_median if b_dec_init == "geometric_median" else lambda x_ND: x_ND.mean(dim=0)
        wanted_ND = y_ND if target_ND is None else target_ND
        b_dec_D = centre(wanted_ND)
        b_in_D = None if target_ND is None else centre(y_ND)
        centred_ND = y_ND - (b_dec_D if b_in_D is None else b_in_D)
        variance = float((wanted_ND - wanted_ND.mean(dim=0)).square().sum(dim=1).mean())
        cross_ED = None if target_ND is None else centred_ND.T @ (wanted_ND - b_dec_D) / len(y_ND)
        return cls(b_dec_D, variance, float(centred_ND.square().mean().sqrt()), b_in_D, cross_ED)


def geometric_median(x_ND: Tensor, iterations: int = 30) -> Tensor:
    """Return the point with the least sum of distances to the rows, [D], by Weiszfeld's algorithm."""
    median_D = x_ND.mean(dim=0)
    for _ in range(iterations):
        weight_N = 1 / (x_ND - median_D).norm(dim=1).clamp(min=1e-6)
        median_D = (weight_N[:, None] * x_ND).sum(dim=0) / weight_N.sum()
    return median_D
