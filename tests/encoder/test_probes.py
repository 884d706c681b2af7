"""Probe features: what learned inputs do inside a network moves with its neurons."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ngopt.encoder.probes import ProbeFeatures
from ngopt.testing import assert_equivariant, assert_invariant
from tests.encoder.cases import ENCODERS, EXACT, SWEEPS, Siren, differ, drawn, network_of, reader, stacked, zoo
from tests.zoo import MODELS

X = torch.rand(6, 2, dtype=torch.float64) * 2 - 1


def siren() -> nn.Module:
    return Siren(7, 5, omega=3.0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_invariant(encoder: str) -> None:
    module = siren()
    graph, state = network_of(module, X)
    model = reader(graph, encoder, probes=4, module=module, example=X)
    other = drawn(state, 1)
    assert_invariant(lambda s: model(graph, stacked(other, s)), state, graph.generators(), tolerance=EXACT)
    assert differ(model(graph, stacked(state)), reader(graph, encoder)(graph, stacked(state))) > 1e-3  # they are seen


@pytest.mark.parametrize("encoder", SWEEPS)
def test_new_parameters_move(encoder: str) -> None:
    module = siren()
    graph, state = network_of(module, X)
    model = reader(graph, encoder, "edit", probes=4, module=module, example=X)

    def changes(s: dict) -> dict:
        return {name: x[0, 0] - s[name] for name, x in model(graph, stacked(s)).items()}

    assert_equivariant(changes, state, graph.generators(), tolerance=EXACT)


def test_convolutions_and_pooling_before_the_layers_that_are_read() -> None:
    case = MODELS["cnn_flatten"].make()
    graph, state = zoo("cnn_flatten")
    model = reader(graph, probes=3, module=case.module, example=case.args[0])
    assert_invariant(lambda s: model(graph, stacked(s)), state, list(graph.generators())[::3], tolerance=EXACT)


def test_features_are_what_arrives() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    graph, state = network_of(module, X)
    probes = ProbeFeatures(module, X, 5, 4).double()
    seen = torch.zeros(1, graph.num_nodes, 5, dtype=torch.float64)
    first, last = graph.blocks[0], graph.blocks[2]
    seen[0, first.col_nodes[0]] = probes.inputs.mT
    seen[0, last.col_nodes[0]] = module[:2](probes.inputs).mT
    seen[0, last.row_nodes[0]] = module(probes.inputs).mT
    wanted = probes.norm(probes.project(seen))
    assert differ(wanted, probes(graph, stacked(state))) < EXACT


def test_probes_are_inputs_that_learn_and_start_in_range() -> None:
    module = siren()
    graph, state = network_of(module, X)
    probes = ProbeFeatures(module, X, 50, 8).double()
    assert probes.inputs.shape == (50, 2)
    assert X.min() <= probes.inputs.min() and probes.inputs.max() <= X.max()
    assert {name for name, _ in probes.named_parameters()} == {
        "inputs", "project.weight", "project.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
    (probes(graph, stacked(state)) ** 3).sum().backward()
    assert probes.inputs.grad is not None and probes.inputs.grad.abs().max() > 0


def test_probes_see_the_function() -> None:
    """Weights that are alike in other respects: the control for what probes add."""
    module = siren()
    graph, state = network_of(module, X)
    with_probes = reader(graph, probes=4, module=module, example=X)
    assert differ(with_probes(graph, stacked(state)), reader(graph)(graph, stacked(state))) > 1e-3


def test_no_mixtures() -> None:
    module = siren()
    graph, state = network_of(module, X)
    with pytest.raises(ValueError, match="without probes"):
        reader(graph, probes=4, module=module, example=X).mixed([(graph, state)])


@pytest.mark.parametrize("name", ["deep_sets", "linear_attention"])
def test_where_no_single_vector_arrives(name: str) -> None:
    case = MODELS[name].make()
    graph, state = zoo(name)
    model = reader(graph, probes=4, module=case.module, example=case.args[0])
    with pytest.raises(ValueError, match=r"probes are read off where there is one vector per input; '.*' gets"):
        model(graph, stacked(state))
