"""Tiny tasks and rules for the tests of meta-training; run as a script, `python -m meta_train` with these families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.config import RunConfig, parse_config
from meta_train.folder import RunFolder
from meta_train.parallel import Processes
from meta_train.rules import LearnedRule, NeuralGraphRule, make_rule
from meta_train.tasks import FAMILIES, Task
from meta_train.theta import Theta
from meta_train.trainer import Trainer

CLASSES = 4


@dataclass(frozen=True)
class Patterns:
    """Noisy 8 x 8 pictures of four patterns."""

    seed: int = 0

    def batch(self, generator: torch.Generator, count: int, size: int) -> tuple[Tensor, ...]:
        patterns = torch.randn(CLASSES, 64, generator=torch.Generator().manual_seed(self.seed))
        labels = torch.randint(CLASSES, (count, size), generator=generator)
        return patterns[labels] + torch.randn(count, size, 64, generator=generator), labels

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(2, 64, generator=torch.Generator().manual_seed(0)),)


def tiny(generator: torch.Generator) -> Task:
    """A classifier of 8 x 8 pictures with one hidden layer: one of two, which are built once."""
    return _tiny(int(torch.randint(2, (), generator=generator)))


@lru_cache
def _tiny(seed: int) -> Task:
    layers = lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, CLASSES))  # noqa: E731
    return Task(f"tiny {seed}", "tiny", layers, Patterns(seed), F.cross_entropy, 8)


def broken(generator: torch.Generator) -> Task:
    """A family whose tasks fail to build."""
    raise RuntimeError("there are no such networks")


def sometimes(generator: torch.Generator) -> Task:
    """Every other task fails to build."""
    return broken(generator) if int(torch.randint(2, (), generator=generator)) else tiny(generator)


TINY: dict[str, Any] = {"tiny": tiny, "broken": broken, "sometimes": sometimes}


class PowerTask:
    """``loss = mean(scale * weight ** power) / power + floor``: known by heart; nothing about it is random."""

    family, graph, gradient_noise = "power", None, 0.0

    def __init__(self, start: Tensor, scale: Tensor, power: int = 2, floor: float = 0.1) -> None:
        self.start, self.scale, self.power, self.floor = start, scale, power, floor

    def init(self, seed: int, count: int) -> dict[str, Tensor]:
        return {"w": self.start.clone() if self.start.ndim > 1 else self.start.repeat(count, 1)}

    def batch(self, generator: torch.Generator, count: int) -> tuple[Tensor, ...]:
        return (torch.zeros(count, 1),)

    def loss(self, weights: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return (self.scale * weights["w"] ** self.power).mean() / self.power + self.floor + 0.0 * batch[0].sum()


class RateRule(LearnedRule):
    """Gradient descent with a learned rate and a learned momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.rate, self.decay = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor([0.5]))

    def init_state(self, graph: Any, name: str, weight: Tensor) -> dict[str, Tensor]:
        return {"momentum": torch.zeros_like(weight)}

    def update(self, graph, weights, grads, state, *, step: int, total_steps: int):
        momentum = {name: self.decay * state[name]["momentum"] + grad for name, grad in grads.items()}
        updates = {name: -torch.exp(self.rate) * m for name, m in momentum.items()}
        return updates, {name: {"momentum": m} for name, m in momentum.items()}

    def parts(self) -> dict[str, Theta]:
        return {"all": {name: torch.ones_like(value) for name, value in self.named_parameters()}}

    def shrunk(self, theta: Theta, strength: float) -> Theta:
        return dict(theta)


def moved_rule(seed: int = 0) -> NeuralGraphRule:
    """ngopt's rule away from its start, where every meta-parameter has a derivative."""
    rule = NeuralGraphRule()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in rule.parameters():
            value += 0.1 * torch.randn(value.shape, generator=random)
    return rule


def thetas(rule: LearnedRule) -> Theta:
    """Its meta-parameters, in double precision."""
    return {name: value.detach().double() for name, value in rule.named_parameters()}


PES = {
    "estimator": "pes",
    "families": ["tiny"],
    "count": 2,
    "horizon": [6, 9],
    "steps": [2, 3],
    "sigma": 0.05,
    "offset": False,
}
BACKPROP = {"families": ["tiny"], "count": 2, "horizon": [6, 9], "steps": [2, 4], "segment": 2}
VALUES: dict[str, Any] = {
    "name": "tiny-run",
    "iterations": 7,
    "checkpoint_every": 2,
    "slots": [PES, BACKPROP],
    "outer": {"warmup": 2},
    "evaluation": {"every": 3, "families": ["tiny"], "count": 2, "horizons": [4]},
}


def config_of(**changes: Any) -> RunConfig:
    """A config of a tiny run."""
    return parse_config({**VALUES, **changes})


def trainer_of(config: RunConfig, path: Path, rule: LearnedRule | None = None) -> Trainer:
    """A trainer in a folder; it goes on where the folder stands."""
    processes = Processes()
    return Trainer(config, rule or make_rule(config.kind, config.rule), RunFolder(path, config, processes), processes)


def register(setitem: Callable[[Any, str, Any], None]) -> None:
    """Make the tiny families known."""
    for name, family in TINY.items():
        setitem(FAMILIES, name, family)


if __name__ == "__main__":
    from meta_train.__main__ import main

    register(dict.__setitem__)
    main()
