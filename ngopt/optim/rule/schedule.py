"""When: warm-up, decay to zero and a learned bounded factor; and in which steps the controls are computed anew."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ngopt.optim.rule.config import UpdateConfig

REFERENCE = 1000  # steps of a run for which the step size is meant
STEEPEST = 2.0  # power to which the fall of a long run is raised, at most


def warmup_and_decay(step: int, total_steps: int | None, warmup_steps: int, power: float = 1.0) -> float:
    """Rise over the first steps, then fall, to zero where the horizon is known.

        schedule(t) = min(1, (t + 1) / warmup) * (1 - t / T)^power,    zero from t = T on

    Args:
        step: Steps made so far, ``t``.
        total_steps: The horizon ``T``; None: never decay.
        warmup_steps: Length of the warm-up; 0 for none.
        power: Of the decay.

    Returns:
        A factor in ``[0, 1]``.
    """
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return rise * share_left(step, total_steps) ** power


def share_left(step: int, total_steps: int | None) -> float:
    """What is left of a run, ``1 - t / T``; one where its length is not known."""
    return 1.0 if total_steps is None else max(0.0, 1.0 - step / total_steps)


def steepness(total_steps: int | None) -> float:
    """Long runs fall faster at first, and spend more of their steps on small ones.

    ``min(2, sqrt(T / REFERENCE))`` from ``T = REFERENCE`` on, one below. Measured in runs of 4,000 steps on tasks of
    `meta_train`: with a power of two the loss at 60 % of a run that falls in a line comes 1.2 times sooner (geometric
    mean of eight; later on one of them). In runs of 1,000 steps it costs 4 to 20 % of the final loss.
    """
    return 1.0 if total_steps is None else min(STEEPEST, max(1.0, math.sqrt(total_steps / REFERENCE)))


def is_refresh(step: int, config: UpdateConfig) -> bool:
    """Whether the controls are computed anew in this step; between refreshes, those of the last one are used.

    Stale controls in the first steps, while everything changes fast, can blow up a deep network; hence the dense start.
    """
    return step < config.dense_steps or step % config.controls_every == 0


class LearnedSchedule(nn.Module):
    """A smooth learned factor on the schedule, ``exp(bound * tanh(w . basis(t / T, T)))``. One before it is learned.

    Args:
        bound: Largest absolute logarithm of the factor.
    """

    BASIS = 6

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.weight = nn.Parameter(torch.zeros(self.BASIS))

    def forward(self, step: int, total_steps: int | None) -> Tensor:  # -> []
        """The factor at a step; it depends on the share of the run that is over and on the run's length."""
        if total_steps is None:
            return torch.ones((), dtype=self.weight.dtype, device=self.weight.device)
        done = min(1.0, step / total_steps)
        basis = (
            1.0,
            2.0 * done - 1.0,
            math.sin(math.pi * done),
            math.sin(2.0 * math.pi * done),
            math.exp(-20.0 * done),
            math.log10(total_steps) - 3.0,
        )
        return torch.exp(self.bound * torch.tanh(self.weight @ self.weight.new_tensor(basis)))


@dataclass(frozen=True)
class Schedule:
    """The built-in schedule of a run.

    Args:
        config: Settings of the rule.
        total_steps: Length of the run, or None.
    """

    config: UpdateConfig
    total_steps: int | None

    def given(self, step: int) -> float:
        """The part that is chosen by hand."""
        power = self.config.decay_power * steepness(self.total_steps)
        return warmup_and_decay(step, self.total_steps, self.config.warmup_steps, power)

    def factor(self, step: int, learned: LearnedSchedule) -> Tensor:  # float64 []
        """Both parts; differentiable in the learned one."""
        return self.given(step) * learned(step, self.total_steps).double()
