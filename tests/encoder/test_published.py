"""The published NG-GNN and NG-T: their sizes, and the faults that are kept on purpose.

NG-T for classification has 381,962 weights here, and 376,586 in the paper's table: 5,376 more.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from ngopt.encoder import metanetwork
from ngopt.testing import assert_equivariant, assert_invariant, relative_error
from tests.encoder.cases import EXACT, TASKS, Network, Siren, State, differ, drawn, network_of, stacked, zoo

WEIGHTS = {
    ("ng_gnn", "classify"): 92_010,  # as published
    ("ng_gnn", "edit"): 1_186_696,
    ("ng_t", "classify"): 381_962,
}


ENCODERS = ("ng_gnn", "ng_t")  # those that were published


@cache
def siren(*widths: int) -> Network:
    return network_of(Siren(*widths), torch.randn(4, 2, dtype=torch.float64))


def published(encoder: str, task: str, network: Network, **options: int) -> nn.Module:
    torch.manual_seed(0)
    model = metanetwork(network[0], encoder=encoder, task=task, faithful=True, **options).double().eval()
    if task == "edit":  # changes as large as the weights
        nn.init.ones_(model.weight_scale)
        nn.init.ones_(model.bias_scale)
    return model.requires_grad_(False)


@pytest.mark.parametrize(("encoder", "task"), list(WEIGHTS))
def test_number_of_weights(encoder: str, task: str) -> None:
    model = metanetwork(siren(32, 32)[0], encoder=encoder, task=task, faithful=True)
    assert sum(p.numel() for p in model.parameters()) == WEIGHTS[encoder, task]


def cnn() -> Network:
    layers = [nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return network_of(nn.Sequential(*layers, nn.Linear(4, 3)), torch.randn(2, 2, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("network", [lambda: siren(6, 5), cnn], ids=["siren", "cnn"])
def test_vectors_are_invariant(network, encoder: str) -> None:
    graph, state = network()
    model = published(encoder, "classify", (graph, state))
    assert_invariant(lambda s: model(graph, stacked(s)), state, graph.generators(), tolerance=EXACT)
    permuted = next(graph.generators()).apply(state)
    name = next(name for name in state if not torch.equal(state[name], permuted[name]))
    half = state | {name: permuted[name]}  # control: half a permutation
    assert differ(model(graph, stacked(state)), model(graph, stacked(half))) > 1e-6


def changes(encoder: str, network: Network, part: str) -> State:
    graph, state = network
    model = published(encoder, "edit", network)
    return {name: x[0, 0] - state[name] for name, x in model(graph, stacked(state)).items() if part in name}


def biases_of(encoder: str, graph, state: State) -> State:
    return changes(encoder, (graph, state), "bias")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_new_weights_move_with_the_neurons(encoder: str) -> None:
    graph, state = siren(6, 5)
    assert_equivariant(lambda s: changes(encoder, (graph, s), "weight"), state, graph.generators(), tolerance=EXACT)


def test_new_biases_of_ng_gnn_do_not() -> None:
    """The fault: they are read off the nodes of the layer before, and so those of the first layer off the inputs.

    The inputs do not move when hidden neurons do, and so new biases stay where they are.
    """
    graph, state = siren(6, 5)
    generator = next(g for g in graph.generators() if "layers.0.bias" in g.parameters)
    before, after = biases_of("ng_gnn", graph, state), biases_of("ng_gnn", graph, generator.apply(state))
    wanted = generator.apply(before)
    assert relative_error([wanted["layers.0.bias"]], [after["layers.0.bias"]]) > 1e-3
    assert relative_error([before["layers.0.bias"][:2]], [after["layers.0.bias"][:2]]) < EXACT  # two inputs


def test_new_biases_of_ng_t_do() -> None:
    graph, state = siren(6, 5)
    assert_equivariant(lambda s: biases_of("ng_t", graph, s), state, graph.generators(), tolerance=EXACT)


def other_in_batch(encoder: str, task: str) -> float:
    """By how much a network's answer changes with the other network in the batch."""
    graph, state = siren(6, 5)
    model = published(encoder, task, (graph, state))
    results = [model(graph, stacked(state, {n: 3 * x for n, x in drawn(state, seed).items()})) for seed in (1, 2)]
    own: list[list[Tensor]] = [
        [x[0] for x in result.values()] if isinstance(result, dict) else [result[0]] for result in results
    ]
    return relative_error(*own)


@pytest.mark.parametrize("task", TASKS)
def test_ng_gnn_depends_on_the_batch(task: str) -> None:
    """The fault: it normalises over all nodes of the minibatch."""
    assert other_in_batch("ng_gnn", task) > 1e-6


@pytest.mark.parametrize("task", TASKS)
def test_ng_t_does_not(task: str) -> None:
    assert other_in_batch("ng_t", task) < EXACT


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    "name", ["multihead_attention", "conv_norms", "grouped", "lstm", "cnn_flatten", "residual_mlp"]
)
def test_other_architectures_are_refused(name: str, encoder: str) -> None:
    with pytest.raises(ValueError, match="the published encoders"):
        metanetwork(zoo(name)[0], encoder=encoder, faithful=True)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_scale_zero_changes_no_bit(encoder: str) -> None:
    graph, state = siren(6, 5)
    model = published(encoder, "edit", (graph, state))
    nn.init.zeros_(model.weight_scale)
    nn.init.zeros_(model.bias_scale)
    new = model(graph, stacked(state))
    assert set(new) == set(state)
    assert all(torch.equal(x[0, 0], state[name]) for name, x in new.items())
