"""What a task is: one architecture, its data and its loss, as pure functions of the weights.

A task is drawn from its family with a seed, and every later draw (initial weights, batches) takes a generator: nothing
about a task is random that a seed does not fix. Many optimizees of one task are trained at once, as stacks along a
leading axis, so that ``loss`` must be a pure function that `torch.func.vmap` accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

import ngopt
from ngopt.graph.neural_graph import NeuralGraph

Weights = dict[str, Tensor]
Batch = tuple[Tensor, ...]


class Data(Protocol):
    """Examples that batches are drawn from."""

    def batch(self, generator: torch.Generator, count: int, size: int) -> Batch:
        """Inputs, then targets, of ``count`` batches: each tensor ``[count, size, ...]``."""

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of a batch of two, to trace with; unlike ones, or the certificate sees little."""


Loss = Callable[[Tensor, Tensor], Tensor]  # output, target -> []


@dataclass(frozen=True)
class Task:
    """One architecture, its data and its loss.

    Attributes:
        name: What it is, for logs: ``"mlp 64-32-10 relu mnist 8x8"``.
        family: The registered family that it was drawn from.
        build: Makes the network; its initial weights follow torch's global generator. No buffers that training writes.
        data: Where batches come from.
        criterion: Mean loss of a batch, from outputs and targets.
        batch_size: Examples per batch.
        gradient_noise: Standard deviation of the noise on each gradient, relative to its root mean square.
        scales: Reparametrisation: the network sees ``scales[name] * weight``. One for parameters that are not named.
        graph: The neural graph of the network.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    data: Data
    criterion: Loss
    batch_size: int
    gradient_noise: float = 0.0
    scales: dict[str, float] = field(default_factory=dict)
    graph: NeuralGraph = field(init=False, repr=False)
    module: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Build the network once, and trace it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            object.__setattr__(self, "module", self.build())
        object.__setattr__(self, "graph", ngopt.trace(self.module, self.data.example()))

    def init(self, seed: int, count: int) -> Weights:  # each [count, ...]
        """Initial weights of so many optimizees, each from its own seed."""
        draws = []
        with torch.random.fork_rng(devices=[]):
            for k in range(count):
                torch.manual_seed(seed + k)
                draws.append(dict(self.build().named_parameters()))
        return {
            name: torch.stack([draw[name].detach() for draw in draws]) / self.scales.get(name, 1.0) for name in draws[0]
        }

    def batch(self, generator: torch.Generator, count: int) -> Batch:
        """Batches of so many optimizees: each tensor ``[count, batch_size, ...]``."""
        return self.data.batch(generator, count, self.batch_size)

    def loss(self, weights: Weights, batch: Batch) -> Tensor:  # -> []
        """Mean loss of one optimizee on one batch; a pure function."""
        if self.scales:
            weights = {name: weight * self.scales.get(name, 1.0) for name, weight in weights.items()}
        *inputs, target = batch
        return self.criterion(functional_call(self.module, weights, tuple(inputs)), target)


class Family(Protocol):
    """Draws tasks."""

    def __call__(self, generator: torch.Generator) -> Task:
        """Draw a task: architecture, data and all the rest from this generator alone."""


FAMILIES: dict[str, Family] = {}


def family(name: str) -> Callable[[Family], Family]:
    """Register a family of tasks under a name that configs can use."""

    def register(draw: Family) -> Family:
        if name in FAMILIES:
            raise ValueError(f"There are two task families {name!r}.")
        FAMILIES[name] = draw
        return draw

    return register
