"""Metanetworks over the zoo and over random architectures: what permutes a network's neurons changes no answer.

New parameters, gradients and all else that is shaped like the network moves with its neurons.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ngopt.errors import SymmetryError
from ngopt.testing import RandomNet, assert_equivariant, assert_invariant
from ngopt.testing.strategies import elements as drawn_elements
from ngopt.testing.strategies import random_nets
from tests.encoder.cases import (
    ENCODERS,
    EXACT,
    TASKS,
    State,
    differ,
    elements,
    network_of,
    reader,
    reading,
    stacked,
    zoo,
)
from tests.zoo import MODELS

FEW = (
    "mlp", "siren", "tied_autoencoder", "soft_moe", "kan", "triplane",
    "cnn_flatten", "grouped", "resnet", "unet", "conv_norms",
    "multihead_attention", "transformer_encoder", "grouped_query_rope", "lstm", "deep_sets", "group_equivariant",
    "qwen3", "timm_vit", "timm_mixer",
)  # fmt: skip


MIXED = (
    "siren", "kan", "triplane", "resnet", "conv_norms", "grouped", "multihead_attention", "lstm", "deep_sets", "qwen3",
)  # fmt: skip


def check(network: tuple, encoder: str, task: str, mixed: bool, generators: int = 1) -> None:
    """Permuting one network of a batch leaves its vector, and permutes its changes."""
    graph, state = network
    read = reading(reader(graph, encoder, task), graph, state, task, mixed)
    wanted = assert_invariant if task == "classify" else assert_equivariant
    wanted(read, state, elements(graph, generators), tolerance=EXACT)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", FEW)
def test_stacked(name: str, encoder: str, task: str) -> None:
    check(zoo(name), encoder, task, mixed=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", MIXED)
def test_mixed(name: str, encoder: str, task: str) -> None:
    check(zoo(name), encoder, task, mixed=True)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", MODELS)
def test_whole_zoo(name: str, encoder: str, task: str) -> None:
    check(zoo(name), encoder, task, mixed=False, generators=40)
    check(zoo(name), encoder, task, mixed=True)


@settings(max_examples=max(8, settings.default.max_examples // 3))
@given(
    st.data(),
    random_nets(),
    st.sampled_from(ENCODERS),
    st.sampled_from(TASKS),
    st.booleans(),
    st.sampled_from([{}, {"layers": 2}, {"ordered": False}, {"layers": 2, "ordered": False, "width": 24}]),
)
def test_random_architectures(
    data: st.DataObject, net: RandomNet, encoder: str, task: str, mixed: bool, options: dict
) -> None:
    graph, state = network_of(net, net.example())
    if encoder == "neuron_flow":  # it goes along the program, once there and once back
        options = {key: value for key, value in options.items() if key == "width"}
    read = reading(reader(graph, encoder, task, **options), graph, state, task, mixed)
    wanted = assert_invariant if task == "classify" else assert_equivariant
    wanted(read, state, [data.draw(drawn_elements(graph)), graph.symmetries.random()], tolerance=EXACT)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", ["mlp", "conv_norms", "multihead_attention"])
def test_half_a_permutation_is_noticed(name: str, encoder: str) -> None:
    """The control: permuting one parameter alone, or one learned buffer, is another network."""
    graph, state = zoo(name)
    vector = reading(reader(graph, encoder), graph, state, "classify", mixed=False)
    changes = reading(reader(graph, encoder, "edit"), graph, state, "edit", mixed=False)
    generator = max(graph.generators(), key=lambda g: len(g.parameters))
    permuted = generator.apply(state)
    assert len(generator.parameters) > 1
    for moved in generator.parameters:
        half = state | {moved: permuted[moved]}
        assert differ(vector(state), vector(half)) > 1e-6, moved
    with pytest.raises(SymmetryError, match="not equivariant"):
        assert_equivariant(lambda s: changes(state | {moved: s[moved]}), state, [generator])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", ["siren", "conv_norms", "grouped", "multihead_attention", "lstm"])
def test_gradients_move_with_the_neurons(name: str, encoder: str, task: str) -> None:
    """What a loss of the readout says about each of the network's own parameters and buffers."""
    graph, state = zoo(name)
    model = reader(graph, encoder, task)

    def gradients(state: State) -> State:
        leaves = {name: x.clone().requires_grad_() for name, x in state.items()}
        result = model(graph, {name: x[None] for name, x in leaves.items()})
        results: list[Tensor] = list(result.values()) if isinstance(result, dict) else [result]
        loss = sum(((x - 0.5) ** 3).sum() for x in results)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    found = gradients(state)
    assert all(x.abs().max() > 0 for x in found.values())  # not the trivial way
    assert_equivariant(gradients, state, elements(graph), tolerance=EXACT)


def test_gradients_that_stay_are_noticed() -> None:
    """The control: gradients that do not follow the permutation."""
    graph, state = zoo("mlp")
    fixed = stacked(state)
    with pytest.raises(SymmetryError, match="not equivariant"):
        assert_equivariant(lambda _: {name: x[0] for name, x in fixed.items()}, state, elements(graph))
