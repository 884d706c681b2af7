"""NeuronFlow: a reader that sign, phase and scale symmetries cannot fool, smoothly; an editor that keeps to them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ngopt
import ngopt.encoder.entries
import ngopt.encoder.neuron_flow
from ngopt.encoder import characters, metanetwork
from ngopt.encoder.characters import FREE, PHASE, SCALE, SIGN
from ngopt.encoder.entries import statistics
from ngopt.testing import RandomNet
from ngopt.testing.strategies import random_nets
from tests.encoder.cases import (
    EXACT,
    TASKS,
    State,
    differ,
    drawn,
    elements,
    network_of,
    reader,
    scale_changes,
    stacked,
    zoo,
)
from tests.encoder.test_canonical import NAMES, changed, network

NET = st.lists(st.sampled_from(["tanh", "sin", "relu", "leaky_relu", "gelu", "sin2"]), min_size=1, max_size=3)
FUNCTIONS = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "gelu": nn.functional.gelu,
    "sin2": lambda x: (2.0 * x).sin(),
}


class Stack(nn.Module):
    """Linear layers, or convolutions and a linear layer, with any functions in between."""

    def __init__(self, functions: list[str], convolve: bool, bias: bool) -> None:
        super().__init__()
        widths = [3, 7, 5, 6][: len(functions) + 1]
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=bias) if convolve else nn.Linear(a, b, bias=bias) for a, b in pairs
        )
        self.head, self.functions, self.convolve = nn.Linear(widths[-1], 2), functions, convolve

    def forward(self, x: Tensor) -> Tensor:
        for layer, function in zip(self.layers, self.functions, strict=True):
            x = FUNCTIONS[function](layer(x))
        return self.head(x.mean((2, 3)) if self.convolve else x)


def told(functions: list[str], convolve: bool, bias: bool) -> tuple[ngopt.NeuralGraph, State]:
    module = Stack(functions, convolve, bias)
    shape = (2, 3, 4, 4) if convolve else (4, 3)
    return network_of(module, torch.randn(shape, dtype=torch.float64), scalings=True)


def flow(graph: ngopt.NeuralGraph, task: str = "classify", **options: Any) -> nn.Module:
    return reader(graph, "neuron_flow", task, **options)


def edited(model: nn.Module, graph: ngopt.NeuralGraph, state: State) -> State:
    return {name: x[0, 0] for name, x in model(graph, stacked(state)).items()}


def worst(x: State, y: State) -> float:
    return max(differ(x[name], y[name]) for name in x)


@pytest.mark.parametrize("name", NAMES)
def test_equal_networks_are_read_alike(name: str) -> None:
    _, _, graph, state = network(name)
    pair = stacked(state, changed(graph, state))
    for options in ({}, {"back": True}, {"statistics": True}, {"apart": False}):
        first, second = flow(graph, **options)(graph, pair)
        assert differ(first, second) < EXACT
    first, second = flow(graph, sign=False)(graph, pair)
    assert differ(first, second) > 1e-3  # control: not told of the symmetries
    last = list(state)[-1]
    for options in ({}, {"apart": False}):
        first, second = flow(graph, **options)(graph, stacked(state, state | {last: state[last] * 1.1}))
        assert differ(first, second) > 1e-5  # control: another function


@pytest.mark.parametrize("rounds, scale", [(1, 1.0), (3, 0.03)])  # of SIRENs, large changes are chaos in three rounds
@pytest.mark.parametrize("name", NAMES)
def test_changes_transform_like_the_network(name: str, rounds: int, scale: float) -> None:
    """Editing what equals a network gives what equals the edited network, in the same words."""
    _, _, graph, state = network(name)
    model = flow(graph, "edit", rounds=rounds)
    scale_changes(model, scale)
    new = edited(model, graph, state)
    assert worst(changed(graph, new), edited(model, graph, changed(graph, state))) < EXACT
    free = flow(graph, "edit", sign=False)
    new = edited(free, graph, state)
    assert worst(changed(graph, new), edited(free, graph, changed(graph, state))) > 1e-3  # control


@settings(max_examples=max(8, settings.default.max_examples // 3))
@given(NET, st.booleans(), st.booleans(), st.sampled_from(TASKS), st.booleans(), st.integers(0, 99))
def test_any_functions(
    functions: list[str], convolve: bool, bias: bool, task: str, statistics: bool, seed: int
) -> None:
    """Permutations and scalings together, layers of different characters in one network."""
    graph, state = told(functions, convolve, bias)
    found = len(graph.scalings)
    assert found >= sum(name in ("tanh", "sin", "relu") for name in functions) - 2 * convolve * len(functions)
    state = drawn({name: torch.randn_like(x) for name, x in state.items()}, seed)
    model = flow(graph, task, width=16, **({"rounds": 2} if task == "edit" else {"statistics": statistics}))
    if task == "edit":
        scale_changes(model, 0.1)
    for element in elements(graph, 1, 1):

        def move(x: State, permute: Any = element.apply) -> State:
            return changed(graph, permute(x), seed)

        if task == "classify":
            first, second = model(graph, stacked(state, move(state)))
            assert differ(first, second) < EXACT
        else:
            assert worst(move(edited(model, graph, state)), edited(model, graph, move(state))) < EXACT


@settings(max_examples=max(5, settings.default.max_examples // 5), suppress_health_check=[HealthCheck.too_slow])
@given(random_nets())
def test_random_architectures_with_scalings(net: RandomNet) -> None:
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    graph, state = network_of(net, net.example(), scalings=True)
    model = flow(graph, width=16)
    first, second = model(graph, stacked(state, changed(graph, state)))
    assert differ(first, second) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_character_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: features of neurons that do not answer as the neurons do."""
    _, _, graph, state = network(name)
    model = flow(graph)  # before what it calls is replaced
    monkeypatch.setattr(
        ngopt.encoder.neuron_flow, "pair", lambda kind, z, phase: characters.pair(characters.FREE, z + phase, phase)
    )
    monkeypatch.setattr(model.encoder._act.__func__, "__defaults__", (ngopt.encoder.neuron_flow.pair,))
    first, second = model(graph, stacked(state, changed(graph, state)))
    assert differ(first, second) > 1e-3


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_statistics_that_know_more_than_they_may_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: signs where neurons are odd, and sizes where they can be scaled."""
    _, _, graph, state = network(name)
    model, pair = flow(graph, statistics=True), stacked(state, changed(graph, state))
    monkeypatch.setattr(ngopt.encoder.entries, "SCALE", -1)
    monkeypatch.setattr(ngopt.encoder.entries, "statistics", lambda x, signed: statistics(x, True))
    first, second = model(graph, pair)
    assert differ(first, second) > 1e-3


def test_statistics_do_not_depend_on_the_order() -> None:
    x = torch.randn(3, 50, dtype=torch.float64)
    assert differ(statistics(x, True), statistics(x[:, torch.randperm(50)], True)) < 1e-12
    assert differ(statistics(x, False), statistics(-x, False)) < 1e-12
    assert differ(statistics(x, True), statistics(-x, True)) > 1e-2  # control
    assert differ(statistics(x, False), statistics(1.5 * x, False)) > 1e-2  # control


def test_statistics_see_what_sums_of_weights_do_not() -> None:
    """Two networks whose layers compute the same sums of weights, from equal entries and from unequal ones."""
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    graph, state = network_of(module, torch.randn(2, 2, dtype=torch.float64))
    found = []
    for spread in (0.0, 2.0):
        entries = torch.tensor([1.0 + spread, 1.0 - spread], dtype=torch.float64)
        found.append(statistics(entries.expand(4, 2).reshape(1, 8), True))
    assert differ(found[0][..., -2], found[1][..., -2]) < 1e-12  # control: the mean is the same
    assert differ(*found) > 0.1
    assert flow(graph, statistics=True)(graph, stacked(state)).shape == (1, 10)


@pytest.mark.parametrize("function", [characters.pair, characters.gates])
@pytest.mark.parametrize("kind", [FREE, SIGN, PHASE, SCALE])
def test_functions_answer_as_described(kind: int, function: Any) -> None:
    z, phase = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    same = function(kind, z, phase)
    odd = -1.0 if function is characters.pair else 1.0
    answers = {
        "sign": (function(kind, -z, -phase), odd * same),
        "phase": (function(kind, z, phase + torch.pi), -same),
        "scale": (function(kind, 3 * z, phase), (3 if function is characters.pair else 1) * same),
    }
    holds = {FREE: set(), SIGN: {"sign"}, PHASE: {"sign", "phase"}, SCALE: {"scale"}}[kind]
    for name, (found, wanted) in answers.items():
        assert (differ(found, wanted) < 1e-12) == (name in holds), name


def test_nothing_jumps() -> None:
    """Where a bias crosses zero, and where a quarter of a period ends, the canonical form jumps; this does not."""
    _, _, graph, state = network("siren")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = metanetwork(graph, encoder="ng_gnn", sign=True).double().eval().requires_grad_(False)
    for border in (0.0, torch.pi / 60):

        def at(bias: float) -> State:
            moved = state["layers.0.bias"].clone()
            moved[0] = bias
            return state | {"layers.0.bias": moved}

        pair = stacked(at(border - 1e-7), at(border + 1e-7))
        first, second = flow(graph)(graph, pair)
        assert differ(first, second) < 1e-3
        first, second = other(graph, pair)
        assert differ(first, second) > 1e-2  # control


def test_dead_neurons_have_gradients() -> None:
    """Norms of nothing: a neuron without weights, and a network of zeros."""
    _, _, graph, state = network("relu")
    for zeroed in (
        {name: torch.zeros_like(x) for name, x in state.items()},
        state | {"0.weight": state["0.weight"] * 0},
    ):
        leaves = {name: x.clone()[None].requires_grad_() for name, x in zeroed.items()}
        result = flow(graph, statistics=True)(graph, leaves)
        assert result.isfinite().all()
        assert all(x.isfinite().all() for x in torch.autograd.grad(result.square().sum(), list(leaves.values())))


def test_memory_is_linear_in_neurons() -> None:
    """No tensor that is made while networks are read has as many numbers as weights times anything."""

    def largest(width: int) -> int:
        module = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        graph, state = network_of(module, torch.randn(2, 4, dtype=torch.float64))
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                made = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, Tensor)]
                sizes.extend(x.numel() for x in made if not func.is_view)
                return out

        model = flow(graph, width=4)
        model(graph, stacked(state))  # makes what is kept
        with Watch():
            model(graph, {name: x[None] for name, x in state.items()})
        return max(sizes)

    assert largest(400) < 3 * largest(200)  # weights are four times as many


@pytest.mark.parametrize("name", ["multihead_attention", "grouped_query_rope"])
def test_heads_hear_of_their_queries(name: str) -> None:
    """Values are read knowing what queries and keys of their own head are like."""
    graph, state = zoo(name)
    model = flow(graph)
    query = next(b for b in graph.blocks if "query" in b.role)
    moved = state | {query.name: state[query.name] * 1.5}
    before, after = model(graph, stacked(state, moved))
    assert differ(before, after) > 1e-6
