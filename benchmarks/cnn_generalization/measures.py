"""How well accuracies were predicted: Kendall's tau-b, R², mean absolute error, and bootstrap intervals of them."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.common.ranks import tau_b

SAMPLES = 500  # of a bootstrap
LEVEL = 0.95


def measures(
    predicted: np.ndarray,  # [net], accuracies from 0 to 1
    true: np.ndarray,  # [net]
) -> dict[str, float]:
    """``tau`` (`tau_b`), ``r2`` and ``mae`` (in points of 100); NaN if a prediction is not finite."""
    if not np.isfinite(predicted).all():
        return {"tau": math.nan, "r2": math.nan, "mae": math.nan}
    spread = np.square(true - true.mean()).sum()
    return {
        "tau": tau_b(predicted, true),
        "r2": float(1 - np.square(predicted - true).sum() / max(spread, 1e-12)),
        "mae": float(100 * np.abs(predicted - true).mean()),
    }


def intervals(
    predicted: np.ndarray,  # [net]
    true: np.ndarray,  # [net]
    runs: np.ndarray,  # [net]: which training run each network is a checkpoint of
    seed: int = 0,
) -> dict[str, list[float]]:
    """Ends of the 95 % bootstrap interval of every measure.

    Whole runs are drawn, with replacement: checkpoints of one run are alike, and drawing them one by one would make
    intervals too short.
    """
    random = np.random.default_rng(seed)
    order = np.argsort(runs, kind="stable")
    members = np.split(order, np.unique(runs[order], return_index=True)[1][1:])
    found = []
    for _ in range(SAMPLES):
        drawn = np.concatenate([members[k] for k in random.integers(len(members), size=len(members))])
        found.append(measures(predicted[drawn], true[drawn]))
    ends = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
    return {name: [float(np.quantile([f[name] for f in found], end)) for end in ends] for name in found[0]}
