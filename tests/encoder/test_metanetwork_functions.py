"""Networks with the same shapes, or the same weights, that compute different functions get different answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.encoder.cases import ENCODERS, EXACT, Network, State, differ, network_of, reader, stacked, zoo

SEEN = 1e-6


class Net(nn.Module):
    """Two layers and what is done between them and after them."""

    def __init__(self, first: nn.Module, second: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.function = first, second, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first, self.second, x)


def dense(activation: Callable) -> Net:
    return Net(nn.Linear(3, 8), nn.Linear(8, 2), lambda a, b, x: b(activation(a(x))))


def images(
    pool: Callable = F.max_pool2d, stride: int = 1, padding: int = 1, dilation: int = 1, norm_groups: int = 2
) -> Net:
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(norm_groups, 8))
    second = nn.Conv2d(8, 4, 3, stride, padding, dilation)
    return Net(first, second, lambda a, b, x: b(pool(a(x).relu(), 2)).mean((2, 3)))


def grouped(groups: int) -> Net:
    """Weights [8, 2, 3, 3], on all channels or on half of them."""
    layer = nn.Conv2d(2 * groups, 8, 3, groups=groups)
    return Net(nn.Conv2d(3, 8, 3), layer, lambda a, b, x: b(a(x).relu()[:, : 2 * groups]).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention with heads; shapes do not say how many."""

    def __init__(self, heads: int, names: str = "qkvo") -> None:
        super().__init__()
        self.embed, self.heads, self.names = nn.Linear(5, 8), heads, names
        for name in names:
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, out = (getattr(self, name) for name in self.names)
        x = self.embed(x)
        query, key, value = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (q, k, v))
        heard = F.scaled_dot_product_attention(query, key, value)
        return out(heard.transpose(1, 2).flatten(2)).mean(1)


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "activation": (lambda: dense(torch.relu), lambda: dense(torch.tanh), (2, 3)),
    "rare activation": (lambda: dense(F.softplus), lambda: dense(F.mish), (2, 3)),
    "no activation": (lambda: dense(torch.relu), lambda: dense(nn.Identity()), (2, 3)),
    "frequency": (lambda: dense(lambda z: (2 * z).sin()), lambda: dense(lambda z: (3 * z).sin()), (2, 3)),
    "stride": (images, lambda: images(stride=2), (2, 3, 8, 8)),
    "padding": (images, lambda: images(padding=0), (2, 3, 8, 8)),
    "dilation": (images, lambda: images(dilation=2, padding=2), (2, 3, 8, 8)),
    "pooling": (images, lambda: images(F.avg_pool2d), (2, 3, 8, 8)),
    "groups of a norm": (images, lambda: images(norm_groups=4), (2, 3, 8, 8)),
    "groups": (lambda: grouped(2), lambda: grouped(4), (2, 3, 8, 8)),
    "heads": (lambda: Attention(2), lambda: Attention(4), (2, 6, 5)),
}


def loaded(module: nn.Module, state: State) -> nn.Module:
    """The module with these weights, in the order in which it has its own."""
    module = module.double()
    module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    return module


@cache
def networks(what: str) -> tuple[Network, Network, Network]:
    """A network, another function with the same weights, and the first one traced again."""
    make, make_other, shape = PAIRS[what]
    x = torch.randn(shape, dtype=torch.float64)
    module = make().double()
    other = loaded(make_other(), module.state_dict())
    assert differ(module(x), other(x)) > SEEN  # the functions do differ
    return network_of(module, x), network_of(other, x), network_of(loaded(make(), module.state_dict()), x)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("what", PAIRS)
def test_same_weights_other_function(what: str, encoder: str) -> None:
    own, other, again = networks(what)
    model = reader(own[0], encoder)
    first, second, third = (model(graph, stacked(state)) for graph, state in (own, other, again))
    assert differ(first, third) < EXACT  # control: the same function
    assert differ(first, second) > SEEN


def swapped(state: State, first: str, second: str) -> State:
    return state | {first: state[second], second: state[first]}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_query_and_value_change_places(encoder: str) -> None:
    """As modules of their own, and as rows of a packed matrix."""
    graph, state = network_of(Attention(2), torch.randn(2, 6, 5, dtype=torch.float64))
    model = reader(graph, encoder)
    assert differ(model(graph, stacked(state)), model(graph, stacked(swapped(state, "q.weight", "v.weight")))) > SEEN
    assert differ(model(graph, stacked(state)), model(graph, stacked(swapped(state, "q.weight", "k.weight")))) > SEEN
    graph, state = zoo("multihead_attention")
    name = "body.0.body.1.attention.in_proj_weight"
    query, key, value = state[name].chunk(3)
    before = model(graph, stacked(state))
    assert differ(before, model(graph, stacked(state | {name: torch.cat([value, key, query])}))) > SEEN
    assert differ(before, model(graph, stacked(state | {name: torch.cat([key, query, value])}))) > SEEN


@pytest.mark.parametrize("encoder", ENCODERS)
def test_deep_sets_elementwise_and_mean_weights_change_places(encoder: str) -> None:
    graph, state = zoo("deep_sets")
    model = reader(graph, encoder)
    other = swapped(state, "each.weight", "all.weight")
    assert differ(model(graph, stacked(state)), model(graph, stacked(other))) > SEEN


@pytest.mark.parametrize("encoder", ENCODERS)
def test_names_do_not_matter(encoder: str) -> None:
    """The same function with all modules renamed."""
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    graph, state = network_of(Attention(2), x)
    renamed, other = network_of(loaded(Attention(2, "wxyz"), state), x)
    assert set(state) != set(other)
    model = reader(zoo("mlp")[0], encoder)  # statistics, which are kept by name and in float32, are of neither
    assert differ(model(graph, stacked(state)), model(renamed, stacked(other))) < EXACT


@pytest.mark.parametrize("encoder", ENCODERS)
def test_order_of_registration_does_not_matter(encoder: str) -> None:
    """The same function with modules registered in another order."""
    x = torch.randn(4, 3, dtype=torch.float64)
    module = dense(torch.relu)
    graph, state = network_of(module, x)
    module._modules = dict(reversed(module._modules.items()))
    other_graph, other = network_of(module, x)
    assert list(state) != list(other)
    model = reader(zoo("mlp")[0], encoder)  # statistics, which are kept in float32, are of neither
    assert differ(model(graph, stacked(state)), model(other_graph, stacked(other))) < EXACT
