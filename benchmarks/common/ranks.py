"""Kendall's rank correlation."""

from __future__ import annotations

import math

import numpy as np


def tau_b(
    first: np.ndarray,  # [item]
    second: np.ndarray,  # [item]
) -> float:
    """Kendall's tau-b. Values that are the same for all items order nothing: 0, where SciPy has NaN."""
    from scipy.stats import kendalltau  # not needed to make networks, only to judge them

    tau = kendalltau(first, second, variant="b").statistic
    return 0.0 if math.isnan(tau) else float(tau)
