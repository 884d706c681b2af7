"""`torch.set_default_dtype` is the user's choice, and changes nothing that ngopt computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import ngopt
from ngopt.encoder import load_reader, metanetwork, save_reader
from ngopt.graph.certificate import default_dtype
from ngopt.testing import assert_function_invariant, assert_optimizer_equivariant
from tests.optim.ngoptimizer_cases import batch, differing, lively_rule, make_net, same, weights
from tests.zoo import MODELS


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Another default than float32, for one test."""
    with default_dtype(request.param):
        yield request.param


def under_float32(make: Callable[[], Any]) -> Any:
    """What is made under the usual default."""
    with default_dtype(torch.float32):
        return make()


def in_float32(steps: int) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a float32 network after some steps of the shipped rule, and its graph's fingerprint."""
    model, data = under_float32(lambda: (make_net(), [batch(i) for i in range(steps)]))
    optimizer = ngopt.NGOptimizer(model, total_steps=10)
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return weights(model), optimizer.graph.fingerprint()


def test_a_float32_network_trains_the_same(default: torch.dtype) -> None:
    under_other = in_float32(3)
    expected = under_float32(lambda: in_float32(3))
    assert differing(under_other[0], expected[0]) == []
    assert under_other[1] == expected[1]


def test_the_shipped_rule_is_the_file(default: torch.dtype) -> None:
    loaded = ngopt.load_pretrained().state_dict()
    expected = under_float32(lambda: ngopt.load_pretrained().state_dict())
    assert {name: x.dtype for name, x in loaded.items()} == {name: x.dtype for name, x in expected.items()}
    assert all(torch.equal(x, expected[name]) for name, x in loaded.items())


def test_a_network_of_the_default_dtype_trains(default: torch.dtype) -> None:
    model = make_net(dtype=default)
    optimizer = ngopt.NGOptimizer(model)
    before = weights(model)
    x, y = batch(0)
    nn.functional.cross_entropy(model(x.to(default)), y).backward()
    optimizer.step()
    assert optimizer.graph.certified
    assert all(param.dtype == default for param in model.parameters())
    assert "square.weight" in differing(before, weights(model))
    state = copy.deepcopy(optimizer.state_dict())
    other = ngopt.NGOptimizer(model)
    other.load_state_dict(copy.deepcopy(state))
    assert same(other.state_dict()["state"], state["state"])


def test_without_a_graph(default: torch.dtype) -> None:
    model, (x, y) = under_float32(lambda: (make_net(), batch(0)))
    twin = copy.deepcopy(model)

    def stepped(net: nn.Module) -> dict[str, torch.Tensor]:
        optimizer = ngopt.NGOptimizer(net.parameters(), graph=False)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        assert {x.dtype for own in optimizer.state.values() for x in own.values()} <= {torch.float32, torch.bfloat16}
        return weights(net)

    assert differing(stepped(model), under_float32(lambda: stepped(twin))) == []


@pytest.mark.parametrize("name", ["conv_norms", "llama", "cells_in_a_loop"])
def test_graphs_and_certificates(default: torch.dtype, name: str) -> None:
    case = under_float32(MODELS[name].make)
    model, args = case.module.float(), tree_map_only(torch.Tensor, _in_float32, case.args)

    def traced() -> ngopt.NeuralGraph:
        return ngopt.trace(model, args, example_kwargs=case.kwargs)

    graph, expected = traced(), under_float32(traced)
    assert graph.certified
    assert graph.fingerprint() == expected.fingerprint()


def _in_float32(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.is_floating_point() else x


def test_a_rule_as_a_file(default: torch.dtype, tmp_path: Path) -> None:
    rule = lively_rule()
    ngopt.save_pretrained(rule, tmp_path / "rule.safetensors")
    loaded = ngopt.load_pretrained(tmp_path / "rule.safetensors").state_dict()
    assert all(torch.equal(x, loaded[name]) and x.dtype == loaded[name].dtype for name, x in rule.state_dict().items())


def test_a_reader_reads_the_same(default: torch.dtype, tmp_path: Path) -> None:
    net = under_float32(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    x = torch.zeros(2, 3, dtype=torch.float32)
    options = {"task": "classify", "outputs": 3, "encoder": "neuron_flow", "width": 8, "hidden": 8}

    def saved() -> Path:
        graph = ngopt.trace(net, x, scalings=True)
        model = metanetwork(graph, **options)
        return save_reader(tmp_path / "r.safetensors", graph, model.state_dict(), options, {})

    path = under_float32(saved)
    expected = under_float32(lambda: load_reader(path)(net, x))
    torch.testing.assert_close(load_reader(path)(net, x), expected)
    assert expected.std() > 0  # control


@pytest.mark.parametrize("encoder", ["neuron_flow", "ng_gnn", "ng_t"])
def test_metanetworks_of_the_default_dtype(default: torch.dtype, encoder: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    params = {name: p.detach()[None] for name, p in net.named_parameters()}
    graph = ngopt.trace(net, torch.randn(2, 3))
    found = metanetwork(graph, task="classify", outputs=3, encoder=encoder, width=8)(graph, params)
    assert found.dtype == default
    assert bool(found.isfinite().all())
    found.sum().backward()


def test_assertions_for_users(default: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert_function_invariant(net, torch.randn(2, 3))
    double = copy.deepcopy(net).double()
    elements = list(ngopt.trace(double, torch.randn(2, 3).double()).generators())
    assert len(elements) == 3
    assert_optimizer_equivariant(
        lambda module: ngopt.NGOptimizer(module, graph=False),
        double,
        lambda module, step: module(torch.full((5, 3), 0.1 * step + 0.1).double()).square().sum(),
        elements[:1],
    )
