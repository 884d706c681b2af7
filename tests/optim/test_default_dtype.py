"""`torch.set_default_dtype` is the user's choice, and changes nothing that ngopt computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import ngopt
from tests.optim.ngoptimizer_cases import batch, differing, make_net, weights


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Another default than float32, for one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    try:
        yield request.param
    finally:
        torch.set_default_dtype(before)


def in_float32(steps: int) -> tuple[dict[str, torch.Tensor], str]:
    """Weights of a float32 network after some steps of the shipped rule, and its graph's fingerprint."""
    given = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        model, data = make_net(), [batch(i) for i in range(steps)]
    finally:
        torch.set_default_dtype(given)
    optimizer = ngopt.NGOptimizer(model, total_steps=10)
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return weights(model), optimizer.graph.fingerprint()


def test_a_float32_network_trains_the_same(default: torch.dtype) -> None:
    under_other = in_float32(3)
    torch.set_default_dtype(torch.float32)
    expected = in_float32(3)
    assert differing(under_other[0], expected[0]) == []
    assert under_other[1] == expected[1]


def test_the_shipped_rule_is_the_file(default: torch.dtype) -> None:
    loaded = ngopt.load_pretrained().state_dict()
    torch.set_default_dtype(torch.float32)
    expected = ngopt.load_pretrained().state_dict()
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
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    train_again = ngopt.NGOptimizer(model)
    train_again.load_state_dict(state)
