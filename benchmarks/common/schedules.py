"""Factors on the learning rate over a run: warm-up, then constant, linear to zero, or half a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP = 50  # steps
Schedule = Callable[[int], float]  # the factor at step t = 0, 1, ...


def warmup_constant(total_steps: int, warmup: int = WARMUP) -> Schedule:
    r""":math:`\min(1, (t+1)/warmup)`; ``total_steps`` makes no difference."""
    return lambda t: min(1.0, (t + 1) / warmup)


def warmup_linear(total_steps: int, warmup: int = WARMUP) -> Schedule:
    r""":math:`\min(1, (t+1)/warmup) \cdot (1 - t/total)`."""
    return lambda t: min(1.0, (t + 1) / warmup) * max(0.0, 1.0 - t / total_steps)


def warmup_cosine(total_steps: int, warmup: int = WARMUP) -> Schedule:
    r""":math:`\min(1, (t+1)/warmup) \cdot \tfrac12 (1 + \cos(\pi t/total))`."""
    return lambda t: min(1.0, (t + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, t / total_steps)))


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "constant": warmup_constant,
    "linear": warmup_linear,
    "cosine": warmup_cosine,
}
