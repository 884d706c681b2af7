"""`ngopt.testing`: what holds passes, what does not is refused with a message that names it, and shrinks."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ngopt
from ngopt.errors import SymmetryError
from ngopt.testing import (
    KnownModule,
    RandomNet,
    assert_encoder_equivariant,
    assert_equivariant,
    assert_function_invariant,
    assert_invariant,
    assert_layer_equivariant,
    assert_optimizer_equivariant,
    tolerance_of,
)
from ngopt.testing.strategies import batches, elements, modules, networks, orders, random_nets


@cache
def small_mlp() -> tuple[nn.Module, ngopt.NeuralGraph]:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, ngopt.trace(model, torch.randn(2, 3).double(), certify=False)


@settings(max_examples=12)
@given(modules(depth=2, width=5))
def test_known_symmetries_are_what_the_tracer_finds(known: KnownModule) -> None:
    graph = ngopt.trace(known.module, known.example, certify=False)
    assert Counter((s.degree, s.copies) for s in graph.symmetries or ()) == known.groups
    assert_function_invariant(known.module, known.example, graph)


def test_a_symmetry_that_is_none_is_named() -> None:
    """The exchange of two neurons in the first layer alone."""
    model, graph = small_mlp()

    class Half:
        parameters = ("0.weight",)

        def __repr__(self) -> str:
            return "half an exchange"

        def apply(self, state):
            return dict(state) | {"0.weight": state["0.weight"].roll(1, 0)}

    with pytest.raises(SymmetryError, match=r"half an exchange of 0\.weight changes.* differs by .* in float64"):
        assert_function_invariant(model, torch.randn(2, 3), graph, generators=[Half()])


@given(st.data())
def test_elements_are_a_group_that_shrinks(data: st.DataObject) -> None:
    model, graph = small_mlp()
    element = data.draw(elements(graph))
    state = dict(model.named_parameters())
    moved = element.apply(state)
    assert set(element.parameters) == {"0.weight", "0.bias", "2.weight"}
    assert sorted(moved["0.bias"].tolist()) == sorted(state["0.bias"].tolist())
    assert repr(element).startswith("the exchange ")


def test_the_smallest_failure_is_one_exchange() -> None:
    _, graph = small_mlp()
    moves = find(elements(graph), lambda element: len(element.parameters) > 0, settings=settings(database=None))
    assert len(moves.factors) == 1 and moves.factors[0].name.endswith("[0 1]")


def test_the_smallest_network_is_reported() -> None:
    """A property that fails for every network with an activation shrinks to a net with one step more than needed."""
    found = find(
        random_nets(),
        lambda net: any("activation" in name for name in net.names),
        settings=settings(
            database=None, max_examples=300, phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert len(found.names) <= 3 and "activation" in repr(found) and repr(found).startswith("RandomNet(")


def test_an_architecture_without_symmetries_has_the_identity() -> None:
    graph = ngopt.trace(nn.Linear(3, 2), torch.randn(1, 3), certify=False)
    element = find(elements(graph), lambda _: True)
    assert repr(element) == "the identity" and element.apply({}) == {}


@cache
def small_cnn() -> tuple[nn.Module, ngopt.NeuralGraph]:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2)).double().eval()
    return model, ngopt.trace(model, torch.randn(2, 2, 5, 5).double(), certify=False)


@given(st.data())
def test_networks_fit_their_architecture(data: st.DataObject) -> None:
    model, graph = small_cnn()
    state = data.draw(networks(graph))
    model.load_state_dict(state, strict=False)
    assert state.keys() >= dict(model.named_parameters()).keys()
    assert torch.isfinite(model(data.draw(batches((2, 5, 5))))).all()
    assert data.draw(networks(graph, torch.float32))["0.weight"].dtype == torch.float32


@settings(max_examples=10)
@given(batches((5, 3)), orders(5))
def test_layers(x: Tensor, order: list[int]) -> None:
    assert_layer_equivariant(lambda x: x - x.mean(1, keepdim=True), x, order, axis=1)
    assert_layer_equivariant(lambda x: x.sum(1), x, order, axis=1, invariant=True)
    assert_layer_equivariant(lambda x: x.mT.exp(), x, order, axis=1, out_axis=2)
    assert_layer_equivariant(lambda x: x.float() - x.float().mean(1, keepdim=True), x, order, axis=1)  # tolerance


def test_layers_that_are_not() -> None:
    x, order = torch.randn(1, 5, 3, dtype=torch.float64), [1, 0, 2, 3, 4]
    with pytest.raises(SymmetryError, match=r"not equivariant under the order \[1, 0, 2, 3, 4\] of axis 1"):
        assert_layer_equivariant(lambda x: x - x[:, :1], x, order, axis=1)
    with pytest.raises(SymmetryError, match="not invariant"):
        assert_layer_equivariant(lambda x: x[:, 0], x, order, axis=1, invariant=True)
    with pytest.raises(SymmetryError, match="differs by"):  # too little to see in float32
        assert_layer_equivariant(lambda x: x + 1e-6 * x[:, :1], x, order, axis=1)
    with pytest.raises(ValueError, match=r"a permutation of 0 \.\.\. 4"):
        assert_layer_equivariant(lambda x: x, x, [0, 0, 1, 2, 3], axis=1)


def test_functions_of_networks() -> None:
    model, graph = small_mlp()
    state = dict(model.named_parameters())
    assert_invariant(lambda s: s["0.weight"].sort(0).values.sum(0), state, graph.generators())
    assert_equivariant(lambda s: {n: x.square() for n, x in s.items()}, state, graph.generators())
    with pytest.raises(SymmetryError, match=r"not invariant under .*0\.weight.* differs by"):
        assert_invariant(lambda s: s["0.weight"][0], state, graph.generators())
    with pytest.raises(SymmetryError, match=r"0\.bias differs by"):
        assert_equivariant(lambda s: s | {"0.bias": s["0.bias"].cumsum(0)}, state, graph.generators())


def test_encoders() -> None:
    model, graph = small_mlp()
    state = {name: x.detach() for name, x in model.named_parameters()}
    elements_ = list(graph.generators())
    assert_encoder_equivariant(lambda g, p: p["0.weight"].flatten(1).mean(1), graph, state, elements_)
    assert_encoder_equivariant(lambda g, p: {n: x - x.mean() for n, x in p.items()}, graph, state, elements_)
    with pytest.raises(SymmetryError, match="not invariant"):
        assert_encoder_equivariant(lambda g, p: p["0.weight"][:, 0], graph, state, elements_)
    with pytest.raises(SymmetryError, match="not equivariant"):
        assert_encoder_equivariant(lambda g, p: {n: x.cumsum(1) for n, x in p.items()}, graph, state, elements_)


class ByIndex(torch.optim.SGD):
    """Steps of a row are longer, the later it comes."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad *= torch.arange(1, len(p) + 1, dtype=p.dtype).reshape(-1, *[1] * (p.ndim - 1))
        return super().step(closure)


def test_optimizers() -> None:
    model, graph = small_mlp()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    elements_ = list(graph.generators())

    def loss(module: nn.Module, step: int) -> Tensor:
        return (module(x) - y).square().mean()

    before = {name: p.clone() for name, p in model.named_parameters()}
    assert_optimizer_equivariant(lambda m: torch.optim.AdamW(m.parameters()), model, loss, elements_)
    assert_optimizer_equivariant(lambda m: ngopt.NGOptimizer(m.named_parameters(), graph=graph), model, loss, elements_)
    with pytest.raises(SymmetryError, match=r"0\.(weight|bias) differs"):
        assert_optimizer_equivariant(lambda m: ByIndex(m.parameters(), lr=0.1), model, loss, elements_)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


class Alike(torch.optim.SGD):
    """All entries move alike but for one part in 10^8, and for noise."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p += 1e-3 * (1.0 + 1e-8 * p.grad.sign()) + group["lr"] * torch.randn_like(p)


def test_rounding_of_weights_is_no_difference_of_steps() -> None:
    model, graph = small_mlp()
    x, elements_ = torch.randn(8, 3).double(), list(graph.generators())

    def loss(module: nn.Module, step: int) -> Tensor:
        return module(x).square().mean()

    assert_optimizer_equivariant(lambda m: Alike(m.parameters(), lr=1e-16), model, loss, elements_)
    with pytest.raises(SymmetryError, match=r"differs by .* of its size"):  # control
        assert_optimizer_equivariant(lambda m: Alike(m.parameters(), lr=1e-10), model, loss, elements_)


def test_tolerances_follow_the_precision() -> None:
    assert tolerance_of(torch.zeros(1, dtype=torch.float64)) < 1e-8 < tolerance_of(torch.zeros(1)) < 1e-3
    assert tolerance_of(torch.zeros(1).double(), torch.zeros(1).bfloat16()) == 1e-1


def test_random_nets_compute() -> None:
    net = find(random_nets(), lambda net: isinstance(net, RandomNet))
    assert torch.isfinite(net(net.example())).all()
