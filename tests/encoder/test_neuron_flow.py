"""NeuronFlow: a reader that sign, phase and scale symmetries cannot fool, smoothly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ngopt
import ngopt.encoder.neuron_flow
from ngopt.encoder import characters, metanetwork
from tests.encoder.cases import EXACT, State, differ, elements, stacked
from tests.encoder.test_canonical import NAMES, changed, network


def flow(graph: ngopt.NeuralGraph, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return metanetwork(graph, encoder="neuron_flow", **options).double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
def test_equal_networks_are_read_alike(name: str) -> None:
    _, _, graph, state = network(name)
    pair = stacked(state, changed(graph, state))
    first, second = flow(graph)(graph, pair)
    assert differ(first, second) < EXACT
    first, second = flow(graph, sign=False)(graph, pair)
    assert differ(first, second) > 1e-3  # control: not told of the symmetries
    last = list(state)[-1]
    first, second = flow(graph)(graph, stacked(state, state | {last: state[last] * 1.1}))
    assert differ(first, second) > 1e-5  # control: another function


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_neurons_does_not_matter(name: str) -> None:
    _, _, graph, state = network(name)
    model = flow(graph)
    for generator in elements(graph):
        first, second = model(graph, stacked(state, generator.apply(state)))
        assert differ(first, second) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_character_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: features of neurons that do not answer as the neurons do."""
    _, _, graph, state = network(name)
    monkeypatch.setattr(
        ngopt.encoder.neuron_flow, "pair", lambda kind, z, phase: characters.pair(characters.FREE, z + phase, phase)
    )
    first, second = flow(graph)(graph, stacked(state, changed(graph, state)))
    assert differ(first, second) > 1e-3


def test_nothing_jumps() -> None:
    """Where a bias crosses zero, and where a quarter of a period ends, the canonical form jumps; this does not."""
    _, _, graph, state = network("siren")
    for border in (0.0, torch.pi / 60):

        def at(bias: float) -> State:
            moved = state["layers.0.bias"].clone()
            moved[0] = bias
            return state | {"layers.0.bias": moved}

        pair = stacked(at(border - 1e-7), at(border + 1e-7))
        first, second = flow(graph)(graph, pair)
        assert differ(first, second) < 1e-3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            other = metanetwork(graph, encoder="ng_gnn", sign=True).double().eval().requires_grad_(False)
        first, second = other(graph, pair)
        assert differ(first, second) > 1e-2  # control
