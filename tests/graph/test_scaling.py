"""Sign and scale symmetries: exactly the right groups are found, and what is found leaves the function unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.graph.certificate import evaluate, relative_error
from ngopt.graph.scaling import Scaling
from tests.encoder.cases import Siren
from tests.zoo.dense import Residual

Found = list[tuple[int, str, float | None]]  # neurons, kind, phase
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 7), activation(), nn.Linear(7, 5), activation(), nn.Linear(5, 2))


def cnn() -> nn.Module:
    body = [nn.Conv2d(3, 7, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(7, 5, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(5, 2))


def between(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 7), *layers, nn.Linear(7, 2))


def pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 7, 3), *layers, nn.Flatten(), nn.Linear(28, 2))


def siren(omega: float, inner: float | None = None) -> nn.Module:
    return Siren(7, 5, inputs=3, omega=omega, inner=inner)


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Found]] = {
    "siren": (lambda: siren(30), X, [(7, "sign", math.pi / 30), (5, "sign", math.pi / 30)]),
    "siren, two frequencies": (lambda: siren(30, 1), X, [(7, "sign", math.pi / 30), (5, "sign", math.pi)]),
    "siren, odd frequencies": (lambda: siren(9, 3), X, [(7, "sign", math.pi / 9), (5, "sign", math.pi / 3)]),
    "tanh": (lambda: mlp(nn.Tanh), X, [(7, "sign", None), (5, "sign", None)]),
    "relu": (lambda: mlp(nn.ReLU), X, [(7, "scale", None), (5, "scale", None)]),
    "leaky relu": (lambda: mlp(nn.LeakyReLU), X, [(7, "scale", None), (5, "scale", None)]),
    "cnn": (cnn, IMAGE, [(7, "scale", None), (5, "scale", None)]),
    "sigmoid": (lambda: mlp(nn.Sigmoid), X, []),
    "gelu": (lambda: mlp(nn.GELU), X, []),
    "norm after the function": (lambda: between(nn.ReLU(), nn.LayerNorm(7)), X, []),
    "norm before the function": (lambda: between(nn.LayerNorm(7), nn.Tanh()), X, []),
    "residual stream": (
        lambda: between(Residual(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 7))),
        X,
        [(5, "scale", None)],  # inside the branch; the stream has none
    ),
    "odd stream": (lambda: between(nn.Tanh(), Residual(nn.Linear(7, 7), nn.Tanh())), X, [(7, "sign", None)]),
    "stream that is not odd": (lambda: between(nn.Tanh(), Residual(nn.Linear(7, 7), nn.Sigmoid())), X, []),
    "maximum of what is odd": (lambda: pooled(nn.Tanh(), nn.MaxPool2d(2)), IMAGE, []),
    "mean of what is odd": (lambda: pooled(nn.Tanh(), nn.AvgPool2d(2)), IMAGE, [(7, "sign", None)]),
    "two functions": (lambda: between(nn.Tanh(), nn.ReLU()), X, []),
}


@cache
def traced(what: str) -> tuple[nn.Module, Tensor, ngopt.NeuralGraph]:
    make, x, _ = CASES[what]
    module = make().double()
    return module, x.double(), ngopt.trace(module, x.double(), scalings=True)


def sizes(graph: ngopt.NeuralGraph) -> Found:
    return [(s.stop - s.start, s.kind, s.phase) for s in graph.scalings]


@pytest.mark.parametrize("what", list(CASES))
def test_exactly_the_right_groups(what: str) -> None:
    graph = traced(what)[2]
    wanted = CASES[what][2]
    assert [found[:2] for found in sizes(graph)] == [found[:2] for found in wanted]
    for (_, _, phase), (_, _, right) in zip(sizes(graph), wanted, strict=True):
        assert phase == (None if right is None else pytest.approx(right))


@pytest.mark.parametrize("what", [what for what, (_, _, found) in CASES.items() if found])
def test_each_leaves_the_function_unchanged(what: str) -> None:
    module, x, graph = traced(what)
    state = dict(module.state_dict())
    before = evaluate(module, state, (x,), {})
    generator = torch.Generator().manual_seed(1)
    for scaling in graph.scalings:
        count = scaling.stop - scaling.start
        factor = torch.rand(count, generator=generator).double() + 0.5
        if scaling.kind == "sign":
            factor = (factor - 1).sign()
        turns = torch.randint(-3, 4, (count,), generator=generator) if scaling.phase else None
        changed = scaling.apply(graph, state, factor, turns)
        assert any(not torch.equal(changed[name], state[name]) for name in state)
        assert relative_error(before, evaluate(module, changed, (x,), {})) < 1e-9
        wrong = Scaling(scaling.group, scaling.start, scaling.stop, scaling.kind, 0.8 * (scaling.phase or 1.0))
        turned = wrong.apply(graph, state, factor, torch.ones(count))
        assert relative_error(before, evaluate(module, turned, (x,), {})) > 1e-3  # control: a phase that is not one
        if scaling.kind == "sign":
            doubled = scaling.apply(graph, state, 2 * factor)
            assert relative_error(before, evaluate(module, doubled, (x,), {})) > 1e-3  # control: signs alone


def test_without_asking_none_are_looked_for() -> None:
    assert ngopt.trace(mlp(nn.Tanh), X).scalings == ()


def test_stacks_are_scaled_network_by_network() -> None:
    module, _, graph = traced("siren")
    (scaling, *_), state = graph.scalings, dict(module.state_dict())
    factor, turns = torch.tensor([[-1.0] * 7, [1.0] * 7]).double(), torch.tensor([[1.0] * 7, [-2.0] * 7]).double()
    together = scaling.apply(graph, {name: torch.stack([x, x]) for name, x in state.items()}, factor, turns)
    for k in range(2):
        alone = scaling.apply(graph, state, factor[k], turns[k])
        assert all(torch.equal(together[name][k], alone[name]) for name in state)
