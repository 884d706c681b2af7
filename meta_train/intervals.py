"""Means over tasks and seeds, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000


def interquartile_mean(values: Sequence[float] | np.ndarray) -> np.ndarray:  # [... n] -> [...]
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end."""
    ordered = np.sort(np.asarray(values, float), axis=-1)
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


Statistic = Callable[[np.ndarray], np.ndarray]  # means of groups [... group] -> [...]


def bootstrap(groups: Sequence[Sequence[float]], statistic: Statistic = interquartile_mean) -> tuple[float, float]:
    """95 % percentile interval of a statistic, by drawing runs again within each group (that is, seeds of a task).

    Args:
        groups: Values of the runs, per group.
        statistic: Of the groups' means; the generator is seeded, so the same values give the same interval.
    """
    generator = np.random.default_rng(0)
    return _interval(statistic(np.stack([_means(group, (RESAMPLES,), generator) for group in groups], -1)))


def bootstrap_groups(
    groups: Sequence[Sequence[float]], statistic: Statistic = interquartile_mean
) -> tuple[float, float]:
    """The same with groups (that is, tasks) drawn again too: what other tasks of this kind would say."""
    generator, count = np.random.default_rng(0), len(groups)
    means = np.stack([_means(group, (RESAMPLES, count), generator) for group in groups])  # [group resample place]
    chosen = generator.integers(0, count, (1, RESAMPLES, count))
    return _interval(statistic(np.take_along_axis(means, chosen, 0)[0]))


def _means(group: Sequence[float], shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Means of a group whose values were drawn again."""
    return np.asarray(group, float)[generator.integers(0, len(group), (*shape, len(group)))].mean(-1)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    # Of infinite values (a run that never gets there) the nearest one: between them there is nothing to interpolate.
    low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")
    return float(low), float(high)
