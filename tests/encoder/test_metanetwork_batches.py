"""What a metanetwork says about a network does not depend on what else is in the batch, nor on how the batch lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ngopt.encoder.metanetwork import DENSE_FROM
from tests.encoder.cases import (
    ENCODERS,
    EXACT,
    SWEEPS,
    TASKS,
    Network,
    differ,
    drawn,
    network_of,
    reader,
    stacked,
    zoo,
)

MIXTURE = ("transformer_encoder", "resnet", "siren", "maxout")  # one of them has blocks, one learned buffers

tasks = pytest.mark.parametrize("task", TASKS)
encoders = pytest.mark.parametrize("encoder", SWEEPS)


def worst(x: Tensor | dict[str, Tensor], y: Tensor | dict[str, Tensor]) -> float:
    """Largest difference of two answers."""
    if isinstance(x, Tensor):
        return differ(x, y)
    assert list(x) == list(y)
    return max(differ(x[name], y[name]) for name in x)


def of(result: Tensor | dict[str, Tensor], k: int) -> Tensor | dict[str, Tensor]:
    """The answer for one network of a stack."""
    return result[k] if isinstance(result, Tensor) else {name: x[k] for name, x in result.items()}


@tasks
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", ["siren", "conv_norms", "multihead_attention"])
def test_stacks_of_any_size_and_order(name: str, encoder: str, task: str) -> None:
    graph, state = zoo(name)
    model = reader(graph, encoder, task)
    states = [drawn(state, seed) for seed in range(4)]
    together = model(graph, stacked(*states))
    backwards = model(graph, stacked(*states[::-1]))
    for k, own in enumerate(states):
        assert worst(of(model(graph, stacked(own)), 0), of(together, k)) < EXACT
        assert worst(of(backwards, 3 - k), of(together, k)) < EXACT
    assert worst(of(together, 0), of(together, 1)) > 1e-3  # control: networks do differ


@tasks
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_transformer_a_resnet_and_a_siren_in_one_batch(encoder: str, task: str) -> None:
    """One model, one batch: every answer is that of the network alone, on the dense path and on PyG's."""
    networks = [(graph, drawn(state, 1)) for graph, state in map(zoo, MIXTURE)]
    networks.append((networks[0][0], drawn(networks[0][1], 2)))
    model = reader(networks[0][0], encoder, task, **({"layers": 2} if encoder in SWEEPS else {}))
    together = model.mixed(networks)
    backwards = model.mixed(networks[::-1])
    for k, (graph, state) in enumerate(networks):
        dense = of(model(graph, stacked(state)), 0)
        assert worst(dense, together[k]) < EXACT
        assert worst(dense, backwards[len(networks) - 1 - k]) < EXACT
        assert worst(dense, model.mixed([(graph, state)])[0]) < EXACT
        if isinstance(dense, dict):
            assert list(dense) == list(together[k])
    assert worst(together[0], together[-1]) > 1e-3  # control: one architecture, two networks


@tasks
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_fastest_way_reads_the_same(encoder: str, task: str) -> None:
    """Many of one architecture are stacked, the rest is mixed, and all come back in order."""
    (many, state), (few, few_state) = zoo("siren"), zoo("resnet")
    networks = [(many, drawn(state, seed)) for seed in range(DENSE_FROM)]
    networks[2:2] = [(few, few_state)]
    model = reader(many, encoder, task)
    found = model.read(networks)
    assert len(found) == len(networks)
    for answer, (graph, own) in zip(found, networks, strict=True):
        assert worst(of(model(graph, stacked(own)), 0), answer) < EXACT


@tasks
@encoders
@pytest.mark.parametrize(
    "options", [{"ordered": False}, {"layers": 2, "frequencies": 0}, {"width": 24, "edge_width": 8}]
)
def test_both_paths_agree_with_other_options(options: dict, encoder: str, task: str) -> None:
    graph, state = zoo("grouped")
    model = reader(graph, encoder, task, **options)
    states = [drawn(state, seed) for seed in (1, 2)]
    dense, mixed = model(graph, stacked(*states)), model.mixed([(graph, own) for own in states])
    for k in range(2):
        assert worst(of(dense, k), mixed[k]) < EXACT


@pytest.mark.parametrize("encoder", ENCODERS)
def test_both_paths_agree_after_statistics_were_fitted(encoder: str) -> None:
    """Units come from training networks for one architecture, and from the fan-in for the other."""
    (graph, state), (other, other_state) = zoo("siren"), zoo("resnet")
    model = reader(graph, encoder)
    before = model(graph, stacked(state))
    model.fit_statistics(
        graph, {name: x * 3 + 0.1 for name, x in stacked(*(drawn(state, k) for k in range(5))).items()}
    )
    mixed = model.mixed([(other, other_state), (graph, state)])
    assert differ(before, model(graph, stacked(state))) > 1e-3
    assert differ(mixed[1], model(graph, stacked(state))[0]) < EXACT
    assert differ(mixed[0], model(other, stacked(other_state))[0]) < EXACT


@tasks
def test_gradients_of_both_paths_agree(task: str) -> None:
    (graph, state), (other, other_state) = zoo("siren"), zoo("grouped")
    model = reader(graph, "ng_gnn", task).requires_grad_(True)
    weights = list(model.parameters())

    def gradients(answers: list) -> list[Tensor]:
        loss = sum((x**2).sum() for one in answers for x in (one.values() if isinstance(one, dict) else [one]))
        return torch.autograd.grad(loss, weights, materialize_grads=True)

    mixed = gradients(list(model.mixed([(graph, state), (other, other_state)])))
    alone = gradients([of(model(g, stacked(s)), 0) for g, s in ((graph, state), (other, other_state))])
    assert max(differ(x, y) for x, y in zip(alone, mixed, strict=True)) < 1e-9


def bare() -> Network:
    """A network without edges."""
    return network_of(nn.LayerNorm(4), torch.randn(2, 4, dtype=torch.float64))


def test_scalars_in_a_mixture() -> None:
    graph, state = zoo("scalars_and_scales")
    model = reader(graph)
    assert differ(model.mixed([(graph, state)])[0], model(graph, stacked(state))[0]) < EXACT


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", [lambda: zoo("ensemble"), bare], ids=["without biases", "without edges"])
def test_networks_without_biases_or_edges_among_others(other: Callable[[], Network], first: bool) -> None:
    networks = [other(), zoo("mlp")] if first else [zoo("mlp"), other()]
    model = reader(networks[0][0])
    for answer, (graph, state) in zip(model.mixed(networks), networks, strict=True):
        assert differ(answer, model(graph, stacked(state))[0]) < EXACT
