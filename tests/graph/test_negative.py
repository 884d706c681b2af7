"""What is not symmetric must not be called so; and the certificate must notice a rule that is wrong."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ngopt
from ngopt.graph.certificate import TOLERANCE, relative_error
from ngopt.graph.rules import RULES
from tests.graph.checks import WRONG, traced, wrong_generators
from tests.zoo.attention import RelativeBias, Residual, Wrapped
from tests.zoo.convolution import head
from tests.zoo.dense import Lambda

aten = torch.ops.aten


def hidden(function: Callable[[Tensor], Tensor], width: int = 7) -> nn.Module:
    """A function between the hidden neurons of two linear layers."""
    return nn.Sequential(nn.Linear(5, width), Lambda(function), nn.ReLU(), nn.Linear(width, 3))


class ECA(nn.Module):
    """Channel attention by a convolution over neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.convolution(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid()


class Circulant(nn.Module):
    """``W[i, j] = w[(i - j) % n]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.register_buffer("table", (torch.arange(width)[:, None] - torch.arange(width)) % width)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[self.table])


class Table(nn.Module):
    """Adds a fixed table along an axis, as a buffer (a constant of the architecture, not a parameter)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(-1, 1, torch.Size(shape).numel()).sin().reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


def pixels(*body: nn.Module) -> nn.Module:
    """Channels of one pixel."""
    return nn.Sequential(nn.Unflatten(1, (5, 1, 1)), nn.Conv2d(5, 7, 1), *body, nn.ReLU(), *head(7))


def sliding(*body: nn.Module, width: int) -> nn.Module:
    """A window that slides over neurons."""
    return nn.Sequential(nn.Linear(5, 7), nn.Unflatten(1, (1, 7)), *body, nn.Flatten(), nn.ReLU(), nn.Linear(width, 3))


def weighted_one_by_one(x: Tensor) -> Tensor:
    """Every neuron is taken out by itself, and treated differently."""
    return sum(i * neuron.sin() for i, neuron in enumerate(x.unbind(1), 1))[:, None]


NOT_SYMMETRIC: dict[str, Callable[[], nn.Module]] = {
    "output": lambda: nn.Linear(5, 7),
    "eca": lambda: pixels(ECA()),
    "local response norm": lambda: pixels(nn.LocalResponseNorm(3)),
    "circulant": lambda: nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), Circulant(7), nn.ReLU(), Circulant(7), nn.Linear(7, 3)
    ),
    "sort": lambda: hidden(lambda x: x.sort(-1).values),
    "sort indices": lambda: hidden(lambda x: x * x.argsort(-1)),
    "top-k": lambda: nn.Sequential(nn.Linear(5, 7), Lambda(lambda x: x.topk(4, -1).indices.to(x)), nn.Linear(4, 3)),
    "cumsum": lambda: hidden(lambda x: x.cumsum(-1)),
    "cumprod": lambda: hidden(lambda x: x.cumprod(-1)),
    "difference": lambda: hidden(lambda x: x - x.roll(1, -1)),
    "neighbours": lambda: nn.Sequential(nn.Linear(5, 7), Lambda(lambda x: x[:, 1:] * x[:, :-1]), nn.Linear(6, 3)),
    "all rotations": lambda: hidden(lambda x: torch.stack([i * x.roll(i, -1) for i in range(7)]).sin().sum(0)),
    "position table": lambda: nn.Sequential(nn.Linear(5, 7), Table(7), nn.ReLU(), nn.Linear(7, 3)),
    "arange multiplier": lambda: hidden(lambda x: x * torch.arange(7).to(x)),
    "powers": lambda: hidden(lambda x: x ** torch.arange(1, 8)),
    "triangle": lambda: hidden(lambda x: torch.einsum("bi,bj->bij", x, x).tril().sum(-1)),
    "pooling over neurons": lambda: sliding(nn.AvgPool1d(3, 1), width=5),
    "convolution over neurons": lambda: sliding(nn.Conv1d(1, 1, 3, bias=False), width=5),
    "one by one": lambda: nn.Sequential(nn.Linear(5, 7), Lambda(weighted_one_by_one), nn.Linear(1, 3)),
    "a pair": lambda: hidden(lambda x: torch.cat([x[:, :1].tanh(), x[:, 1:]], 1), width=2),
    "padded input": lambda: nn.Sequential(nn.Unflatten(1, (5, 1, 1)), nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(5, 3, 1)),
}


@pytest.mark.parametrize("name", NOT_SYMMETRIC)
def test_no_symmetry_is_claimed(name: str):
    run = traced(NOT_SYMMETRIC[name](), torch.randn(2, 5, dtype=torch.float64), certify=False)
    assert run.sizes == Counter()
    assert not list(run.graph.generators())


def test_only_the_axis_concerned_is_frozen():
    module = nn.Sequential(nn.Linear(5, 7), Table(7), nn.ReLU(), nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 3))
    run = traced(module, torch.randn(2, 5, dtype=torch.float64), certify=False)
    assert run.sizes == Counter([(11, 1)])


def test_fixed_positions_freeze_the_stream_but_not_the_heads():
    module = Wrapped(6, 11, Table(5, 11), Residual(nn.LayerNorm(11), RelativeBias(11, 3, 4, 5)))
    run = traced(module, torch.randn(2, 5, 6, dtype=torch.float64), certify=False)
    assert run.sizes == Counter([(3, 1), (4, 3), (4, 3)])


def test_slopes_per_head_freeze_the_heads_but_not_their_dims():
    class Alibi(RelativeBias):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
            slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=x.dtype)[:, None, None]
            weights = torch.softmax(q @ k.mT - slopes * self.distance, -1)
            return self.out((weights @ v).transpose(1, 2).flatten(2))

    run = traced(Wrapped(6, 11, Residual(Alibi(11, 3, 4, 5))), torch.randn(2, 5, 6, dtype=torch.float64), certify=False)
    assert run.sizes == Counter([(11, 1)] + 6 * [(4, 1)])


# -- a rule that is wrong ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def rule_for(op: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Register a rule, and put things back afterwards."""
    before = dict(RULES)
    try:
        ngopt.graph.rule(op)(function)
        yield
    finally:
        RULES.clear()
        RULES.update(before)


def as_if_pointwise(tracer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrong for anything that looks at order."""
    out = tracer.algebra.combine(x)
    return [out] * len(tracer.shapes) if len(tracer.shapes) > 1 else out


SABOTAGE = {
    "cumsum": (aten.cumsum, lambda x: x.cumsum(-1)),
    "sort": (aten.sort, lambda x: x.sort(-1).indices * x),
    "flip": (aten.flip, lambda x: x - 2 * x.flip(-1)),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_certificate_catches_a_wrong_rule(name: str):
    op, function = SABOTAGE[name]
    module = nn.Sequential(nn.Linear(5, 11), nn.Tanh(), nn.Linear(11, 7), Lambda(function), nn.Linear(7, 3))
    x = torch.randn(2, 5, dtype=torch.float64)
    with rule_for(op, as_if_pointwise):
        believed = traced(module, x, certify=False)
        with pytest.warns(ngopt.FrozenSymmetryWarning, match=r"2\.weight") as record:
            certified = traced(module, x)
    assert believed.sizes == Counter([(11, 1), (7, 1)])
    assert not believed.graph.certified
    assert len(wrong_generators(believed)) == 6  # those of the seven neurons: our own check notices as well
    assert len(record) == 1
    assert all(name in str(record[0].message) for name in ("2.bias", "4.weight"))
    assert "0.weight" not in str(record[0].message)
    assert certified.sizes == Counter([(11, 1)])  # what is right survives
    assert certified.graph.certified
    assert wrong_generators(certified) == []


def test_certificate_catches_a_wrong_product():
    """Neurons that a product fails to tie are claimed twice; moved together by chance, they would pass."""

    def transposed(tracer: Any, a: Any, b: Any) -> Any:
        reduce = tracer.algebra.reduce
        return tracer.algebra.combine(reduce(a, [1], keepdim=True), reduce(b, [0], keepdim=True))

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.empty(5, 7)), nn.Parameter(torch.empty(7, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.first) @ self.second

    with rule_for(aten.mm, transposed), pytest.warns(ngopt.FrozenSymmetryWarning, match=r"first|second"):
        run = traced(Product(), torch.randn(2, 5, dtype=torch.float64))
    assert wrong_generators(run) == []
    assert run.error(run.state | {"first": run.state["first"].flip(1)}) > WRONG


def test_rules_are_restored():
    before = dict(RULES)
    with rule_for(aten.cumsum, as_if_pointwise):
        assert RULES[aten.cumsum] is as_if_pointwise
    assert before == RULES


def test_equal_examples_are_no_reason_to_doubt():
    """All rows alike: the outputs differ by rounding only, which a steep activation makes visible."""

    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(30 * x)

    model = nn.Sequential(nn.Linear(2, 16), Sine(), nn.Linear(16, 16), Sine(), nn.Linear(16, 1))
    graph = ngopt.trace(model, torch.zeros(2, 2))
    assert [group.size for group in graph.groups if not group.frozen] == [16, 16]
    ones = torch.ones(2).double()
    assert relative_error([ones], [ones + 1e-15]) < TOLERANCE
    assert relative_error([ones], [ones + 1e-3]) > TOLERANCE  # control
    close = torch.tensor([1.0, 1.0 + 1e-6]).double()  # a small spread is one all the same
    assert relative_error([close], [close.flip(0)]) > TOLERANCE
