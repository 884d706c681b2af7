"""Matrices that read small inputs take larger steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import ngopt
from ngopt.optim.rule import inputs
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.inputs import MOST, NEAR, input_factor
from ngopt.optim.update import UpdateRule
from tests.optim.update_cases import distance, last, run

WIDTH = 64


def rows(count: int, length: float, width: int = WIDTH) -> Tensor:  # [count, width]
    """Vectors of this length, in random directions."""
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
    return length * x / x.norm(dim=1, keepdim=True)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 10))


class Recurrent(nn.Module):
    """[batch, time, 8] -> [batch, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 6, num_layers=2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Scaled(nn.Module):
    """Brings its inputs to the size of one by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(8.0 * x)


@pytest.mark.parametrize("length", [1e-3, 0.1, 1.0, 2.0, 8.0, 800.0])
def test_factor_of_an_mlp(length: float) -> None:
    graph = ngopt.trace(mlp(), rows(4, length))
    size = length / WIDTH**0.5
    assert graph.given["0.weight"] == pytest.approx(size, rel=1e-5)
    full = {1e-3: MOST, 0.1: 80.0, 1.0: 8.0, 2.0: (NEAR / 0.25) ** 2, 8.0: 1.0, 800.0: 1.0}
    assert input_factor(graph, "0.weight") == pytest.approx(full[length], rel=1e-5)
    assert {input_factor(graph, name) for name in ("0.bias", "2.weight", "2.bias", "unknown")} == {1.0}


def test_only_matrices_at_the_inputs() -> None:
    graph = ngopt.trace(Recurrent(), 0.01 * torch.randn(4, 5, 8))
    larger = {block.name for block in graph.blocks if input_factor(graph, block.name) > 1}
    assert larger == {"rnn.weight_ih_l0"}
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    graph = ngopt.trace(convolutions, 0.01 * torch.randn(4, 3, 6, 6))
    assert {block.name for block in graph.blocks if input_factor(graph, block.name) > 1} == {"0.weight"}


def test_what_is_measured_is_what_the_matrix_is_given() -> None:
    graph = ngopt.trace(Scaled(), rows(4, 1.0))
    assert graph.given["body.0.weight"] == pytest.approx(1.0, rel=1e-5)
    model = mlp()
    weight_norm(model[0])
    graph = ngopt.trace(model, rows(4, 0.8))
    assert input_factor(graph, "0.parametrizations.weight.original1") == pytest.approx(10.0, rel=1e-5)


def test_inputs_that_say_nothing() -> None:
    graph = ngopt.trace(mlp(), torch.zeros(4, WIDTH))
    assert "0.weight" not in graph.given and input_factor(graph, "0.weight") == 1.0


def test_no_numbers_no_factor() -> None:
    words = nn.Sequential(nn.Embedding(9, 8), nn.Flatten(), nn.Linear(24, 3))
    graph = ngopt.trace(words, torch.randint(9, (4, 3)))
    assert all(input_factor(graph, block.name) == 1.0 for block in graph.blocks)
    graph = ngopt.trace(mlp().to("meta"), torch.empty(4, WIDTH, device="meta"))
    assert graph.given == {}
    assert input_factor(None, "0.weight") == 1.0


def test_ranks_that_saw_other_data_step_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ngopt.trace(mlp(), rows(4, 0.1))
    assert input_factor(graph, "0.weight") > 1  # control
    monkeypatch.setattr(inputs, "several_ranks", lambda: True)
    assert input_factor(graph, "0.weight") == 1.0


@pytest.mark.parametrize("in_place", [False, True])
def test_the_first_step_is_larger_by_the_factor(in_place: bool) -> None:
    model, x = mlp().double(), rows(12, 0.8).double()
    graph = ngopt.trace(model, x)
    start = dict(model.named_parameters())
    rule = UpdateRule(UpdateConfig()).double()

    def change(graph: ngopt.NeuralGraph) -> dict[str, Tensor]:
        weights, _ = last(run(model, x, graph, rule, 1, in_place=in_place))
        return {name: weights[name] - start[name].detach() for name in weights}

    plain, larger = change(dataclasses.replace(graph, given={})), change(graph)
    assert distance(larger, {**plain, "0.weight": 10.0 * plain["0.weight"]}) < 1e-6


def train(x: Tensor, y: Tensor, graph: ngopt.NeuralGraph | None, steps: int = 100) -> float:
    model = mlp()
    optimizer = ngopt.NGOptimizer(model, graph=graph, total_steps=steps)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_normalised_rows_are_learned_from() -> None:
    x = rows(128, 1.0)
    y = (x @ torch.randn(WIDTH, 10, generator=torch.Generator().manual_seed(2))).argmax(1)
    graph = ngopt.trace(mlp(), x)
    captured = train(x, y, None)
    assert captured < 0.5 * train(x, y, dataclasses.replace(graph, given={}))  # control
    assert captured < 2.0 * train(8.0 * x, y, None) + 0.1  # as fast as from numbers of about one, or nearly


def test_a_run_that_goes_on_keeps_its_factor() -> None:
    """Whatever the first batch after resuming is like."""
    x, y = rows(32, 1.0), torch.arange(32) % 10

    def steps(model: nn.Module, optimizer: ngopt.NGOptimizer, x: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    model = mlp()
    optimizer = ngopt.NGOptimizer(model)
    for scale in (1.0, 1.0, 5.0):
        steps(model, optimizer, scale * x)
    again = mlp()
    other = ngopt.NGOptimizer(again)
    first = mlp()
    of_first = ngopt.NGOptimizer(first)
    for _ in range(2):
        steps(first, of_first, x)
    again.load_state_dict(first.state_dict())
    other.load_state_dict(of_first.state_dict())
    steps(again, other, 5.0 * x)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
