"""Random architectures from lists of integers: small DAGs of vectors, sequences and images.

Hypothesis draws the integers (`ngopt.testing.strategies.architectures`), so that what fails shrinks to a short list;
`RandomNet` reads them. Every number has a meaning: each quadruple chooses an op, its source, a second source, and a
setting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quadruple = tuple[int, int, int, int]
INPUTS = {"vector": (2, 5), "sequence": (2, 4, 5), "image": (2, 3, 6, 6)}
WIDTHS = (6, 4, 8, 12, 9)


@dataclass(frozen=True)
class Op:
    """One kind of step: what it applies to, and how to build it."""

    name: str
    kinds: tuple[str, ...]
    build: Callable[[tuple[int, ...], tuple[int, ...], int], nn.Module]  # (shape, second shape, setting) -> module


class Apply(nn.Module):
    """A function of one or two tensors, with parts that hold parameters."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for i, part in enumerate(parts):
            setattr(self, f"part{i}", part)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(self, x, y)


OPS: list[Op] = []
VECTOR, SEQUENCE, IMAGE = ("vector",), ("sequence",), ("image",)
FEATURES_LAST = ("vector", "sequence")  # neurons along the last axis
ANY = ("vector", "sequence", "image")


def op(*kinds: str) -> Callable[[Callable], Callable]:
    """Register a kind of step."""

    def register(build: Callable) -> Callable:
        OPS.append(Op(build.__name__, kinds, build))
        return build

    return register


def pick(options: tuple, number: int) -> Any:
    """An option, by number."""
    return options[number % len(options)]


def divisor(width: int, number: int) -> int:
    """A divisor of the width that is neither 1 nor the width, if there is one."""
    return pick(tuple(d for d in range(2, width) if width % d == 0) or (width,), number)


def channel_axis(shape: tuple[int, ...]) -> int:
    """The axis of the neurons."""
    return 1 if len(shape) == 4 else -1


def to_width(shape: tuple[int, ...], width: int) -> nn.Module:
    """A learned map to another width."""
    return nn.Conv2d(shape[1], width, 1) if len(shape) == 4 else nn.Linear(shape[-1], width)


@op(*FEATURES_LAST)
def linear(shape, other, n):
    return Apply(lambda m, x, y: m.part0(x), nn.Linear(shape[-1], pick(WIDTHS, n), bias=n % 2 == 0))


@op(*IMAGE)
def conv(shape, other, n):
    stride = 2 if n % 3 == 2 and min(shape[2:]) >= 4 else 1
    return Apply(lambda m, x, y: m.part0(x), nn.Conv2d(shape[1], pick(WIDTHS, n), 3, stride, 1, bias=n % 2 == 0))


@op(*IMAGE)
def grouped_conv(shape, other, n):
    groups = divisor(shape[1], n)
    layer = nn.Conv2d(shape[1], groups * (1 + n % 3), 1 + 2 * (n % 2), padding=n % 2, groups=groups)
    return Apply(lambda m, x, y: m.part0(x), layer)


@op(*ANY)
def activation(shape, other, n):
    functions = (torch.relu, torch.tanh, F.gelu, torch.sigmoid, F.silu, torch.sin, torch.square, F.elu)
    return Apply(lambda m, x, y: pick(functions, n)(x))


@op(*FEATURES_LAST)
def norm_last(shape, other, n):
    return Apply(lambda m, x, y: m.part0(x), pick((nn.LayerNorm, nn.RMSNorm), n)(shape[-1]))


@op(*IMAGE)
def norm_image(shape, other, n):
    groups = divisor(shape[1], n)
    norms = (nn.BatchNorm2d(shape[1]), nn.GroupNorm(groups, shape[1]), nn.GroupNorm(1, shape[1]))
    return Apply(lambda m, x, y: m.part0(x), pick(norms, n))


@op(*ANY)
def add(shape, other, n):
    return _join(shape, other, n, lambda x, y: x + y)


@op(*ANY)
def gate(shape, other, n):
    return _join(shape, other, n, lambda x, y: x * y.sigmoid())


@op(*ANY)
def concatenate(shape, other, n):
    axis = channel_axis(shape)
    if shape[axis] + other[axis] > 24 or (len(shape) == 4 and shape[2:] != other[2:]):
        return activation(shape, other, n)
    return Apply(lambda m, x, y: torch.cat([x, y] if n % 2 else [y, x], axis))


def _join(shape, other, n, function):
    """A pointwise function of two tensors; a learned map makes widths equal, pooling makes sizes equal."""
    axis = channel_axis(shape)

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(y, (x.shape[2], x.shape[3])) if x.ndim == 4 and x.shape[2:] != y.shape[2:] else y
        return function(x, m.part0(y))

    return Apply(run, nn.Identity() if shape[axis] == other[axis] else to_width(other, shape[axis]))


@op(*ANY)
def glu(shape, other, n):
    axis = channel_axis(shape)
    if shape[axis] % 2:
        return activation(shape, other, n)
    return Apply(lambda m, x, y: F.glu(x, axis))


@op(*ANY)
def split(shape, other, n):
    """The parts change places, or one is lost, or they are treated differently."""
    axis = channel_axis(shape)
    left = 1 + n % (shape[axis] - 1) if shape[axis] > 1 else 1

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        a, b = x.split([left, x.shape[axis] - left], axis) if x.shape[axis] > 1 else (x, x)
        return pick((torch.cat([b, a], axis), a, torch.cat([a.tanh(), b], axis)), n // 7)

    return Apply(run)


@op(*FEATURES_LAST)
def blocks(shape, other, n):
    """View as ``[outer, inner]``, and look at one of the two."""
    outer = divisor(shape[-1], n)

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        z = x.unflatten(-1, (outer, -1))
        options = (
            z.softmax(-1).flatten(-2),
            z.softmax(-2).flatten(-2),
            z.transpose(-1, -2).flatten(-2),
            z.amax(-1),
            z.mean(-2),
            (z * z.sum(-1, keepdim=True)).flatten(-2),
            (z - z.mean(-2, keepdim=True)).transpose(-1, -2).flatten(-2),
            (z @ z.mT).flatten(-2),
        )
        return pick(options, n // 5)

    return Apply(run)


@op(*FEATURES_LAST)
def scale(shape, other, n):
    """Learned vectors and scalars."""
    sizes = ((shape[-1],), (), (1,), (divisor(shape[-1], n),))
    size = pick(sizes, n)

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        if size == sizes[3] and size != sizes[0]:  # shared by blocks
            return (x.unflatten(-1, (-1, *size)) * m.part0).flatten(-2)
        return x * m.part0

    return Apply(run, nn.Parameter(torch.empty(size)))


@op(*FEATURES_LAST)
def shared_twice(shape, other, n):
    return Apply(lambda m, x, y: m.part0(torch.tanh(m.part0(x))), nn.Linear(shape[-1], shape[-1]))


@op(*FEATURES_LAST)
def transposed_twice(shape, other, n):
    width = pick(WIDTHS, n)
    return Apply(lambda m, x, y: torch.tanh(x @ m.part0) @ m.part0.t(), nn.Parameter(torch.empty(shape[-1], width)))


@op(*FEATURES_LAST)
def experts(shape, other, n):
    """Stacked weights: one matrix per expert."""
    count, width = 2 + n % 2, pick(WIDTHS, n)
    wide, narrow = torch.empty(count, shape[-1], width), torch.empty(count, width, shape[-1])
    parts = (nn.Parameter(wide), nn.Parameter(narrow), nn.Linear(shape[-1], count))

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("...i,eih->...eh", x, m.part0))
        weights = m.part2(x).softmax(-1)
        return torch.einsum("...eh,eho,...e->...o", hidden, m.part1, weights)

    return Apply(run, *parts)


@op(*ANY)
def ordered(shape, other, n):
    """What looks at the order of the neurons."""
    axis = channel_axis(shape)
    half = torch.linspace(-1, 1, shape[axis]).reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))])
    functions = (
        lambda x: x.cumsum(axis),
        lambda x: x + x.flip(axis),
        lambda x: x * x.roll(1, axis),
        lambda x: x * half.to(x),
        lambda x: x.sort(axis).values,
        lambda x: x.roll(2, axis),
        lambda x: x.flip(axis),
    )
    return Apply(lambda m, x, y: pick(functions, n)(x))


@op(*SEQUENCE)
def attention(shape, other, n):
    heads = divisor(shape[-1], n)
    parts = [nn.Linear(shape[-1], 3 * shape[-1]), nn.Linear(shape[-1], shape[-1])]

    def run(m: Any, x: Tensor, y: Tensor) -> Tensor:
        qkv = m.part0(x)
        if n % 2:
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        else:  # interleaved per head
            q, k, v = qkv.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=n % 3 == 0)
        return x + m.part1(out.transpose(1, 2).flatten(2))

    return Apply(run, *parts)


@op(*SEQUENCE)
def mix_tokens(shape, other, n):
    functions = (
        lambda m, x, y: x + m.part0(x.mT).mT,
        lambda m, x, y: x + x.mean(1, keepdim=True),
        lambda m, x, y: x.roll(1, 1) + x,
        lambda m, x, y: x.cumsum(1),
    )
    return Apply(pick(functions, n), *([nn.Linear(shape[1], shape[1])] if n % 4 == 0 else []))


@op(*SEQUENCE)
def positions(shape, other, n):
    """A learned table, or a learned token in front, which the first token gives way to."""
    if n % 2:
        return Apply(lambda m, x, y: x + m.part0, nn.Parameter(torch.empty(shape[1], shape[2])))
    token = nn.Parameter(torch.empty(1, 1, shape[2]))
    return Apply(lambda m, x, y: torch.cat([m.part0.expand(x.shape[0], -1, -1), x[:, 1:]], 1), token)


@op(*SEQUENCE)
def recurrent(shape, other, n):
    width = pick(WIDTHS[:2], n)
    return Apply(lambda m, x, y: m.part0(x)[0], pick((nn.GRU, nn.LSTM, nn.RNN), n)(shape[-1], width, batch_first=True))


@op(*IMAGE)
def shuffle(shape, other, n):
    return Apply(lambda m, x, y: F.channel_shuffle(x, divisor(shape[1], n)))


@op(*IMAGE)
def spatial(shape, other, n):
    functions = (
        lambda m, x, y: F.max_pool2d(x, 3, 1, 1),
        lambda m, x, y: F.avg_pool2d(x, 2, 1, ceil_mode=True),
        lambda m, x, y: F.pad(x, (1, 0, 0, 1)),
        lambda m, x, y: x.flip(-1),
        lambda m, x, y: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda m, x, y: x.transpose(2, 3),
    )
    return Apply(pick(functions, n))


@op(*IMAGE)
def transposed_conv(shape, other, n):
    groups = divisor(shape[1], n) if n % 2 else 1
    if max(shape[2:]) > 8:
        return activation(shape, other, n)
    return Apply(lambda m, x, y: m.part0(x), nn.ConvTranspose2d(shape[1], 2 * groups, 2, groups=groups))


@op(*SEQUENCE, *IMAGE)
def pool_to_vector(shape, other, n):
    """Ends as a vector: mean, max, or all positions as slots."""
    axes = (2, 3) if len(shape) == 4 else (1,)
    functions = [lambda m, x, y: x.mean(axes), lambda m, x, y: x.amax(axes)]
    if torch.Size(shape[1:]).numel() <= 150:
        functions.append(lambda m, x, y: x.flatten(1))
    return Apply(pick(tuple(functions), n))


def kind_of(shape: tuple[int, ...]) -> str:
    """What a tensor of that many axes is."""
    return {2: "vector", 3: "sequence", 4: "image"}[len(shape)]


def _fits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of the pool can meet."""
    return x.ndim == y.ndim and (x.ndim != 3 or x.shape[1] == y.shape[1])


class RandomNet(nn.Module):
    """Steps on a growing pool of tensors; a linear head reads the last one.

    Args:
        kind: Of the input: ``"vector"``, ``"sequence"`` or ``"image"``; see `INPUTS`.
        quadruples: Each chooses an op, how far back its source is, a second source, and a setting.
    """

    def __init__(self, kind: str, quadruples: list[Quadruple]) -> None:
        super().__init__()
        self.kind = kind
        self.steps = nn.ModuleList()
        self.names: list[str] = []
        self.sources: list[tuple[int, int]] = []
        pool = [torch.zeros(INPUTS[kind])]
        for which, first, second, setting in [(0, 0, 0, sum(map(sum, quadruples))), *quadruples]:
            source = max(0, len(pool) - 1 - first % 3)
            options = [o for o in OPS if kind_of(pool[source].shape) in o.kinds]
            alike = [i for i, t in enumerate(pool) if _fits(pool[source], t)]
            other = alike[second % len(alike)]
            chosen = options[which % len(options)]
            step = chosen.build(tuple(pool[source].shape), tuple(pool[other].shape), setting)
            with torch.no_grad():
                out = step(pool[source], pool[other])
            if out.shape[channel_axis(tuple(out.shape))] > 40 and out.ndim > 2:
                continue
            self.steps.append(step)
            self.names.append(f"{chosen.name}({source}, {other}; {setting})")
            self.sources.append((source, other))
            pool.append(out)
        self.head = to_width(tuple(pool[-1].shape), 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as `INPUTS` has it, to the last tensor's with three neurons."""
        pool = [x]
        for step, (source, other) in zip(self.steps, self.sources, strict=True):
            pool.append(step(pool[source], pool[other]))
        return self.head(pool[-1])

    def __repr__(self) -> str:
        """The steps, as hypothesis should report them."""
        return f"RandomNet({self.kind}: {' -> '.join(self.names)})"

    def example(self, seed: int = 0) -> Tensor:
        """A random input, in float64."""
        return example_input(self.kind, seed)


def example_input(kind: str, seed: int = 0) -> Tensor:
    """A random input of that kind, in float64."""
    return torch.randn(INPUTS[kind], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
