"""The canonical form: the same function, one form for all equal networks, and for permuted ones the permuted form."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.encoder.canonical import canonical
from ngopt.errors import SymmetryError
from ngopt.graph.certificate import evaluate, relative_error
from ngopt.testing import assert_equivariant
from tests.encoder.cases import (
    ENCODERS,
    EXACT,
    Network,
    Siren,
    State,
    differ,
    network_of,
    reader,
    scale_changes,
    stacked,
)

NAMES = ("siren", "siren without biases", "tanh", "relu", "cnn")


def without_biases(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.Linear):
            child.bias = None
    return module


def make(name: str) -> tuple[nn.Module, Tensor]:
    x = torch.randn(5, 3, dtype=torch.float64)
    if name.startswith("siren"):
        module = Siren(7, 5, inputs=3, omega=30.0)
        return (without_biases(module) if "without" in name else module), x
    if name == "cnn":
        body = [nn.Conv2d(3, 7, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(7, 5, 2), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(5, 2)), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    function = nn.Tanh if name == "tanh" else nn.ReLU
    return nn.Sequential(nn.Linear(3, 7), function(), nn.Linear(7, 5), function(), nn.Linear(5, 2)), x


@cache
def network(name: str) -> tuple[nn.Module, Tensor, ngopt.NeuralGraph, State]:
    module, x = make(name)
    graph, state = network_of(module, x, scalings=True)
    assert len(graph.scalings) == 2
    return module, x, graph, {key: torch.randn_like(tensor) for key, tensor in state.items()}


def changed(graph: ngopt.NeuralGraph, state: State, seed: int = 0) -> State:
    """The same function in other words: random signs, scales and phases."""
    generator = torch.Generator().manual_seed(seed)
    for scaling in graph.scalings:
        count = scaling.stop - scaling.start
        factor = torch.rand(count, generator=generator).double() + 0.25
        factor = (factor - 0.75).sign() if scaling.kind == "sign" else factor
        turns = torch.randint(-3, 4, (count,), generator=generator).double() if scaling.phase else None
        state = scaling.apply(graph, state, factor, turns)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_same_function(name: str) -> None:
    module, x, graph, state = network(name)
    form = canonical(graph, state)
    assert any(not torch.equal(form[key], state[key]) for key in state)
    assert relative_error(evaluate(module, state, (x,), {}), evaluate(module, form, (x,), {})) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_one_form_for_all_equal_networks(name: str) -> None:
    _, _, graph, state = network(name)
    form = canonical(graph, state)
    for seed in range(5):
        other = canonical(graph, changed(graph, state, seed))
        assert max(differ(form[key], other[key]) for key in state) < EXACT
    again = canonical(graph, form)
    assert max(differ(form[key], again[key]) for key in state) < EXACT
    last = list(state)[-1]
    other = canonical(graph, state | {last: state[last] * 1.1})  # control: another function
    assert max(differ(form[key], other[key]) for key in state) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_commutes_with_permutations(name: str) -> None:
    _, _, graph, state = network(name)
    assert_equivariant(lambda s: canonical(graph, s), state, graph.generators(), tolerance=EXACT)
    with pytest.raises(SymmetryError):  # control: a form that one neuron is told apart by
        assert_equivariant(lambda s: {key: x.sort(0).values for key, x in s.items()}, state, graph.generators())


def test_forms_are_as_described() -> None:
    _, _, graph, state = network("siren")
    form = canonical(graph, state)
    for layer in (0, 1):
        bias = form[f"layers.{layer}.bias"]
        assert (bias >= 0).all() and (bias <= torch.pi / 60 + 1e-12).all()
    _, _, graph, state = network("relu")
    form = canonical(graph, state)
    for layer in ("0", "2"):
        both = torch.cat([form[f"{layer}.weight"], form[f"{layer}.bias"][:, None]], dim=1)
        assert (both.square().sum(1) - 1).abs().max() < EXACT


def test_stacks_are_read_network_by_network() -> None:
    _, _, graph, state = network("siren")
    other = {key: torch.randn_like(x) for key, x in state.items()}
    form = canonical(graph, stacked(state, other))
    for k, own in enumerate((state, other)):
        assert all(torch.equal(form[key][k], x) for key, x in canonical(graph, own).items())


def test_without_scalings_nothing_changes() -> None:
    graph, state = network_of(*make("tanh"))
    assert all(canonical(graph, state)[key] is x for key, x in state.items())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", ["siren", "tanh", "relu"])
def test_a_metanetwork_with_sign_does_not_see_the_change(name: str, encoder: str) -> None:
    _, _, graph, state = network(name)
    pair = stacked(state, changed(graph, state))

    def error(sign: bool) -> float:
        first, second = reader(graph, encoder, sign=sign)(graph, pair)
        return differ(first, second)

    assert error(sign=True) < EXACT
    assert error(sign=False) > 1e-3  # control


@pytest.mark.parametrize("name", ["siren", "relu"])
def test_mixed_batches_are_brought_to_the_form_too(name: str) -> None:
    _, _, graph, state = network(name)
    other: Network = (graph, changed(graph, state))
    mixed = reader(graph, sign=True).mixed([(graph, state), other])
    assert differ(mixed[0], mixed[1]) < EXACT
    free = reader(graph, sign=False).mixed([(graph, state), other])
    assert differ(free[0], free[1]) > 1e-3  # control


def test_changes_are_made_to_the_form() -> None:
    """What a metanetwork with sign emits at scale zero is the form: the same function, not the same numbers."""
    module, x, graph, state = network("siren")
    model = reader(graph, task="edit", sign=True)
    scale_changes(model, 0.0)
    new = {key: y[0, 0] for key, y in model(graph, stacked(state)).items()}
    assert all(torch.equal(new[key], y) for key, y in canonical(graph, state).items())
    assert relative_error(evaluate(module, state, (x,), {}), evaluate(module, new, (x,), {})) < 1e-9
