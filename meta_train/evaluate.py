"""Validation: whole runs on tasks that meta-training never draws, beside the same runs of the untrained rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from meta_train.config import EvaluationConfig
from meta_train.inner import make_step, start
from meta_train.rules import LearnedRule
from meta_train.seeds import derive
from meta_train.tasks import Task, draw
from meta_train.theta import Theta
from meta_train.unroll import log_losses, unroll

LAST = 0.2  # share of a run that its final loss is averaged over
DIVERGED = 10.0  # excess of the log loss that counts for a run that left the finite numbers


@dataclass(frozen=True)
class Curve:
    """A validation run: means over optimizees.

    Attributes:
        mean: Of the log loss over the run.
        final: Of the log loss over the last part of the run.
        diverged: Optimizees whose loss was not finite.
    """

    mean: float
    final: float
    diverged: int


class Validation:
    """Validation tasks, and how the untrained rule does on them.

    Args:
        rule: The learned optimizer; its meta-parameters are given at each call.
        config: Which tasks.
        untrained: Meta-parameters to compare with.
    """

    def __init__(self, rule: LearnedRule, config: EvaluationConfig, untrained: Theta) -> None:
        self.rule, self.config = rule, config
        self.tasks: list[Task] = [draw(name, derive("validation", name)) for name in config.families]
        self.untrained = {name: value.clone() for name, value in untrained.items()}
        self.statistics: dict[str, dict[str, float]] = {}  # by family, of the last run
        self._reference: dict[tuple[str, int], Curve] = {}

    def __call__(self, theta: Theta) -> dict[tuple[str, int], tuple[Curve, Curve]]:
        """Runs with these meta-parameters and with the untrained ones, by family and horizon."""
        found = {}
        for task in self.tasks:
            for horizon in self.config.horizons:
                key = (task.family, horizon)
                if key not in self._reference:
                    self._reference[key] = self._run(self.untrained, task, horizon)
                found[key] = self._run(theta, task, horizon), self._reference[key]
        return found

    @torch.no_grad()
    def _run(self, theta: Theta, task: Task, horizon: int) -> Curve:
        seed = derive("validation run", task.family, horizon)
        stack = start(self.rule, task, count=self.config.count, horizon=horizon, seed=seed)
        stack, losses = unroll(make_step(self.rule, task), theta, task, stack, horizon)
        self.statistics[task.family] = self.rule.statistics(stack.state)
        logs = log_losses(losses)
        finite = torch.isfinite(logs).all(0)
        logs = torch.where(finite, logs, DIVERGED)
        tail = logs[-max(1, round(LAST * horizon)) :]
        return Curve(float(logs.mean()), float(tail.mean()), int((~finite).sum()))


def score(found: dict[tuple[str, int], tuple[Curve, Curve]], harm: float = 1.0) -> float:
    """Mean excess of the final log loss over the untrained rule's, where it is positive ``harm`` times it.

    Negative is better than untrained.
    """
    excess = [trained.final - untrained.final for trained, untrained in found.values()]
    return sum(x * harm if x > 0.0 else x for x in excess) / len(excess)
