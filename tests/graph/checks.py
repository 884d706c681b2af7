"""What the graph tests share: traced zoo models, and numeric checks of generators."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ngopt
from tests.zoo import MODELS, Case
from tests.zoo.numerics import difference, evaluate, randomise_, state_of

RIGHT = 1e-9  # error of a symmetry, relative to the outputs' spread; wrong ones measure above WRONG
WRONG = 1e-6


@dataclass(frozen=True)
class Traced:
    """A module, its graph, and what it computes."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    graph: ngopt.NeuralGraph
    state: dict[str, Tensor]
    outputs: list[Tensor]
    unharmed: bool  # whether module and random state were the same, bit for bit, after the trace

    def error(self, state: dict[str, Tensor]) -> float:
        """How far the outputs move if the module gets this state."""
        return difference(self.outputs, evaluate(self.module, state, self.args, self.kwargs))

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """Degrees and copies of the symmetric groups that were found."""
        return Counter((s.degree, s.copies) for s in self.graph.symmetries or ())


def traced(module: nn.Module, *args: Any, seed: int | None = 0, certify: bool = True, **kwargs: Any) -> Traced:
    """Trace a module in float64 with random parameters."""
    if seed is not None:
        randomise_(module.double().eval(), seed)
    state = {name: tensor.clone() for name, tensor in state_of(module).items()}
    held, around = _tensors(module), _surroundings(module)
    graph = ngopt.trace(module, args, example_kwargs=kwargs, certify=certify)
    unharmed = around == _surroundings(module)
    unharmed &= len(held) == len(_tensors(module)) and all(x is y for x, y in zip(held, _tensors(module), strict=True))
    unharmed &= all(torch.equal(tensor, state[name]) for name, tensor in state_of(module).items())
    return Traced(module, args, kwargs, graph, state, evaluate(module, state, args, kwargs), unharmed)


def _surroundings(module: nn.Module) -> list[Any]:
    """Modes, hooks and attributes of all modules, and the state of the generators of random numbers."""
    kept = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__)) for m in module.modules()
    ]
    switches = torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    return [kept, switches, torch.get_rng_state().tolist(), random.getstate()]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@cache
def traced_model(name: str) -> Traced:
    """Trace a model of the zoo, once per test run."""
    model = MODELS[name]
    if not model.available:
        pytest.skip(f"{model.needs} is not installed")
    case: Case = model.make()
    return traced(case.module, *case.args, seed=None, **case.kwargs)


def wrong_generators(run: Traced, limit: int | None = None) -> list[str]:
    """Generators that change the outputs, or nothing at all. With a limit, a fixed random sample is checked."""
    generators = list(run.graph.generators())
    if limit is not None and len(generators) > limit:
        generators = random.Random(0).sample(generators, limit)
    wrong = []
    for generator in generators:
        permuted = generator.apply(run.state)
        error = run.error(permuted)
        if not error < RIGHT:
            wrong.append(f"{generator!r} on {generator.parameters} changes the outputs by {error:.1e}")
        if all(torch.equal(permuted[name], tensor) for name, tensor in run.state.items()):
            wrong.append(f"{generator!r} moves nothing")
    return wrong


def share_that_moves(run: Traced) -> float:
    """Share of the parameter entries that some generator moves."""
    names = {name for name, _ in run.module.named_parameters()}
    numbers = {name: torch.arange(t.numel()).reshape(t.shape) for name, t in run.state.items()}
    moved = {name: torch.zeros(numbers[name].shape, dtype=torch.bool) for name in names}
    for generator in run.graph.generators():
        permuted = generator.apply(numbers)
        for name in names:
            if permuted[name] is not numbers[name]:
                moved[name] |= permuted[name] != numbers[name]
    return sum(int(m.sum()) for m in moved.values()) / max(1, sum(m.numel() for m in moved.values()))
