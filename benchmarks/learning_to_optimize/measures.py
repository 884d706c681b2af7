"""What is computed from losses: thinned curves, divergence, steps to a target, speed-up, means with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.common.training import TAIL

POINTS = 100  # of a stored curve
RESAMPLES = 2000
Curve = dict[str, list]  # {"steps": [...], "losses": [...]}


def thin(losses: Sequence[float], points: int = POINTS) -> Curve:
    """At most so many points of the running mean over `TAIL` steps (over all there are, before that)."""
    every = max(1, math.ceil(len(losses) / points))
    steps = list(range(every, len(losses) + 1, every))
    if losses and (not steps or steps[-1] != len(losses)):
        steps = [*steps[: points - 1], len(losses)]
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    means = [(sums[s] - sums[max(0, s - TAIL)]) / min(s, TAIL) for s in steps]
    return {"steps": steps, "losses": [significant(m) for m in means]}


def significant(value: float, digits: int = 5) -> float | None:
    """Rounded to so many digits; None, which JSON knows, for what is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def diverged(losses: Sequence[float], steps: int) -> bool:
    """A loss that is not finite, a run that was stopped for it, or one that ended above where it began."""
    if len(losses) < steps or not all(math.isfinite(loss) for loss in losses):
        return True
    tail = losses[-TAIL:]
    return len(losses) > TAIL and sum(tail) / len(tail) > losses[0]


def steps_to(curve: Curve, target: float) -> int | None:
    """First stored step at which the running mean is at most the target; None: never."""
    pairs = zip(curve["steps"], curve["losses"], strict=True)
    return next((step for step, loss in pairs if loss is not None and loss <= target), None)


def speed_up(curve: Curve, steps: int, base: Curve, base_end: float, end: float | None) -> float:
    """How many times faster than a base run of ``steps`` steps, in steps.

    * Reached: ``steps / (first step at which the base's final loss is reached)``.
    * Not reached: the other way round, ``(first step at which the base had what this run ended with) / steps``, at
      most 1.
    * Diverged (``end`` is None): 0.

    Args:
        curve: Of the run.
        steps: Of a whole run of the base.
        base: Curve of the base.
        base_end: Final loss of the base.
        end: Final loss of the run; None if it diverged.
    """
    if end is None:
        return 0.0
    reached = steps_to(curve, base_end)
    if reached is not None:
        return steps / reached
    return min(1.0, (steps_to(base, end) or steps) / steps)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over runs of the same steps; a point that one of them lacks is lacking."""
    steps = curves[0]["steps"]
    losses = np.array([_padded(curve["losses"], len(steps)) for curve in curves if curve["steps"][:1] == steps[:1]])
    return {"steps": steps, "losses": [significant(value) for value in losses.mean(0)]}


def _padded(losses: list[float | None], count: int) -> list[float]:
    known = [math.nan if loss is None else loss for loss in losses[:count]]
    return known + [math.nan] * (count - len(known))


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
