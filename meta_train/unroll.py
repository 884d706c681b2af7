"""Unrolls: several inner steps in a row, and what their losses are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_train.inner import Stack, losses_of
from meta_train.tasks import Task
from meta_train.theta import Theta

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The meta-loss: a weighted mean over the run of the logarithm of the training loss on fresh batches.

    The logarithm makes tasks comparable: a change of scale of the loss adds a constant.

    Attributes:
        late: Share of the weight that lies on the last part of the run; the rest is spread evenly.
        last: What counts as the last part, as a share of the run.
        floor: Added to the loss: halving a loss far below it is worth nothing.
    """

    late: float = 0.5
    last: float = 0.2
    floor: float = 1e-3

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        if not 0.0 <= self.late <= 1.0 or not 0.0 < self.last <= 1.0 or not self.floor > 0.0:
            raise ValueError(
                f"late={self.late!r} must lie in [0, 1], last={self.last!r} in (0, 1], floor={self.floor!r} above 0."
            )

    def weight(self, step: int, horizon: int) -> float:
        """Weight of the loss after ``step`` steps, one on average over ``1 .. horizon``."""
        first_late = horizon - max(1, round(self.last * horizon)) + 1
        late = horizon / (horizon - first_late + 1) if step >= first_late else 0.0
        return (1.0 - self.late) + self.late * late


def log_losses(losses: Tensor, floor: float = TINY) -> Tensor:  # [...] -> [...]
    """Logarithm of losses, kept finite where a loss is zero; NaN and infinity stay."""
    return torch.log(losses + floor)


def unroll(
    step: Callable[..., tuple[Stack, Tensor]],
    theta: Theta,
    task: Task,
    stack: Stack,
    steps: int,
) -> tuple[Stack, Tensor]:  # losses [steps, optimizee]
    """Make steps, and return the losses after each of them: of the batch that the next step uses, or would use."""
    losses = []
    for k in range(steps):
        stack, before = step(theta, stack)
        if k:
            losses.append(before)
    losses.append(losses_of(task, stack))
    return stack, torch.stack(losses)


def meta_losses(
    objective: Objective,
    losses: Tensor,  # [steps, optimizee]
    first: int,
    horizon: int,
) -> Tensor:  # [optimizee]
    """Meta-loss of each optimizee over steps ``first + 1, first + 2, ...`` of a run."""
    weights = losses.new_tensor([objective.weight(first + k + 1, horizon) for k in range(len(losses))])
    return (weights[:, None] * log_losses(losses, objective.floor)).mean(0)
