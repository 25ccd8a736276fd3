"""Intervals of shares that are estimated from a sample."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959964  # two-sided 95% quantile of the normal distribution
Share = TypeVar("Share", float, NDArray[np.float64])


def share_interval(share: Share, n: Share, z: float = Z95) -> tuple[Share, Share]:
    """Return Wilson's interval of a share that was found among `n` independent draws (n > 0).

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (JASA 1927).
    """
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 * z / (1 + z * z / n)
    return middle - half, middle + half
