"""What is computed from losses: thinned curves, divergence, steps to a target, speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.common.training import TAIL

POINTS = 100  # of a stored curve
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
