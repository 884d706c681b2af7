"""The outer step: from what the slots gave to new meta-parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meta_train.config import OuterConfig
from meta_train.rules import LearnedRule
from meta_train.theta import flatten, norm, unflatten

USUAL = 0.9  # decay of a family's usual gradient norm


class Outer:
    """AdamW on normalised gradients, and the running average of what it makes.

    Args:
        rule: Its meta-parameters are changed in place.
        config: Settings.
        iterations: Length of the run, for the schedule.
    """

    def __init__(self, rule: LearnedRule, config: OuterConfig, iterations: int) -> None:
        self.rule, self.config, self.iterations = rule, config, iterations
        self.params = dict(rule.named_parameters())
        self.optimizer = torch.optim.AdamW(
            rule.outer_groups(config.weight_decay), lr=config.lr, betas=(config.beta1, config.beta2)
        )
        self.average = {name: value.detach().clone() for name, value in self.params.items()}
        self.usual: dict[str, float] = {}  # running norm of the gradients, by estimator and family

    def lr_at(self, iteration: int) -> float:
        """Linear warm-up, then a cosine."""
        rise = min(1.0, (iteration + 1) / max(1, self.config.warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * iteration / self.iterations))
        return self.config.lr * rise * (self.config.final + (1.0 - self.config.final) * cosine)

    def normalised(self, gradient: Tensor, kind: str) -> Tensor | None:  # [dim]
        """A slot's gradient, in units of the usual norm of its kind, clipped; None if it is not finite."""
        size = norm(gradient)
        if not math.isfinite(size):
            return None
        if size == 0.0:  # nothing learned, as when all was dropped: says nothing about what is usual
            return gradient
        usual = self.usual.get(kind, size)
        kept = min(size, self.config.clip * usual)
        self.usual[kind] = USUAL * usual + (1.0 - USUAL) * kept
        return gradient * (kept / (size * usual))

    def step(self, gradient: Tensor, iteration: int) -> None:
        """One step against a gradient ``[dim]``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(iteration)
        for name, value in unflatten(gradient, self.params).items():
            self.params[name].grad = value.clone()
        self.optimizer.step()
        # An average that starts at the start is not yet one: weigh the first iterations less.
        decay = min(self.config.ema, (iteration + 1) / (iteration + 10))
        for name, value in self.params.items():
            self.average[name].lerp_(value.detach(), 1.0 - decay)

    def size(self) -> int:
        """Number of meta-parameters."""
        return len(flatten(self.params))
