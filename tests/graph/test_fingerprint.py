"""The graph tells different functions apart, and the same architecture with other weights not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.checks import traced, traced_model
from tests.zoo import MODELS
from tests.zoo.convolution import head
from tests.zoo.dense import Lambda


class Attention(nn.Module):
    """Attention whose three projections can be given any role, with any number of heads."""

    def __init__(self, roles: str = "qkv", heads: int = 2, causal: bool = False, repeat: str = "") -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.out, self.roles, self.heads, self.causal, self.repeat = nn.Linear(8, 3), roles, heads, causal, repeat

    def forward(self, x: Tensor) -> Tensor:
        projected = dict(zip(self.roles, (self.first(x), self.second(x), self.third(x)), strict=True))
        q, k, v = (projected[role].unflatten(-1, (self.heads, -1)).transpose(1, 2) for role in "qkv")
        if self.repeat:  # as in grouped-query attention: half of the keys and values serve all queries
            k, v = k[:, : self.heads // 2], v[:, : self.heads // 2]
            if self.repeat == "each":
                k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            else:
                k, v = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(out.transpose(1, 2).flatten(2))


def cnn(
    activation: nn.Module | None = None, pool: nn.Module | None = None, norm: nn.Module | None = None,
    stride: int = 1, dilation: int = 1, groups: int = 1, padding_mode: str = "zeros",
) -> nn.Module:  # fmt: skip
    """A small network with every part exchangeable."""
    second = nn.Conv2d(8, 6, 3, stride, padding=dilation, dilation=dilation, padding_mode=padding_mode, bias=False)
    parts = [nn.Conv2d(2, 8, 3, padding=1), activation or nn.ReLU(), nn.Conv2d(8, 8, 1, groups=groups, bias=False)]
    return nn.Sequential(*parts, norm or nn.BatchNorm2d(8), second, pool or nn.MaxPool2d(2), nn.ReLU(), *head(6))


def between(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A function between two linear layers."""
    return nn.Sequential(nn.Linear(6, 8), Lambda(function), nn.Linear(8, 3))


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "queries and values exchanged": (lambda: Attention("qkv"), lambda: Attention("vkq")),
    "keys and values exchanged": (lambda: Attention("qkv"), lambda: Attention("qvk")),
    "heads regrouped": (lambda: Attention(heads=2), lambda: Attention(heads=4)),
    "causal": (lambda: Attention(), lambda: Attention(causal=True)),
    "groups of query heads": (lambda: Attention(heads=4, repeat="each"), lambda: Attention(heads=4, repeat="all")),
    "activation": (lambda: cnn(), lambda: cnn(nn.Tanh())),
    "kind of gelu": (lambda: cnn(nn.GELU()), lambda: cnn(nn.GELU("tanh"))),
    "slope": (lambda: cnn(nn.LeakyReLU(0.1)), lambda: cnn(nn.LeakyReLU(0.2))),
    "stride": (lambda: cnn(), lambda: cnn(stride=2)),
    "dilation": (lambda: cnn(), lambda: cnn(dilation=2)),
    "groups": (lambda: cnn(groups=2), lambda: cnn(groups=4)),
    "padding": (lambda: cnn(), lambda: cnn(padding_mode="circular")),
    "pooling": (lambda: cnn(), lambda: cnn(pool=nn.AvgPool2d(2))),
    "pooling window": (lambda: cnn(), lambda: cnn(pool=nn.MaxPool2d(3, 2, 1))),
    "global pooling": (lambda: cnn(pool=nn.AdaptiveMaxPool2d(1)), lambda: cnn(pool=nn.AdaptiveAvgPool2d(1))),
    "norm": (lambda: cnn(norm=nn.GroupNorm(1, 8)), lambda: cnn(norm=nn.InstanceNorm2d(8, affine=True))),
    "norm groups": (lambda: cnn(norm=nn.GroupNorm(2, 8)), lambda: cnn(norm=nn.GroupNorm(4, 8))),
    "scale": (lambda: between(lambda x: 2 * x), lambda: between(lambda x: 3 * x)),
    "residual": (lambda: between(lambda x: x.sin()), lambda: between(lambda x: x + x.sin())),
    "order of functions": (lambda: between(lambda x: x.sin().exp()), lambda: between(lambda x: x.exp().sin())),
    "axis of a softmax": (
        lambda: between(lambda x: x.unflatten(-1, (2, 4)).softmax(-1).flatten(-2)),
        lambda: between(lambda x: x.unflatten(-1, (2, 4)).softmax(-2).flatten(-2)),
    ),
    "who is paired with whom": (
        lambda: between(lambda x: torch.cat([x[..., :4] * x[..., 4:], x[..., 4:]], -1)),
        lambda: between(lambda x: torch.cat([x[..., ::2] * x[..., 1::2], x[..., 1::2]], -1)),
    ),
    "which half is gated": (
        lambda: between(lambda x: torch.cat([x[..., :4].sigmoid() * x[..., 4:], x[..., 4:]], -1)),
        lambda: between(lambda x: torch.cat([x[..., :4] * x[..., 4:].sigmoid(), x[..., 4:]], -1)),
    ),
}


def inputs_of(module: nn.Module) -> Tensor:
    """An image for networks that start with a convolution, else a sequence."""
    is_image = isinstance(next(iter(module.modules())), nn.Sequential) and isinstance(module[0], nn.Conv2d)
    return torch.randn((2, 2, 8, 8) if is_image else (2, 5, 6), dtype=torch.float64)


def fingerprint(module: nn.Module, seed: int = 0) -> str:
    """Trace and hash."""
    return traced(module, inputs_of(module), seed=seed, certify=False).graph.fingerprint()


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_functions_have_different_graphs(name: str):
    one, other = DIFFERENT[name]
    shapes = [[(n, p.shape) for n, p in build().named_parameters()] for build in (one, other)]
    if name not in ("groups",):
        assert shapes[0] == shapes[1]  # nothing but the structure tells them apart
    assert fingerprint(one()) != fingerprint(other())


@pytest.mark.parametrize("build", [Attention, cnn, lambda: between(torch.sin)])
def test_building_again_makes_no_difference(build: Callable[[], nn.Module]):
    """The control of the test above: graphs that differ do so because of the structure."""
    assert fingerprint(build()) == fingerprint(build(), seed=1)


@pytest.mark.parametrize(
    "name",
    ["mlp", "unet", "multihead_attention", "grouped_query_rope", "gru", "channel_shuffle", "value_dependent_python"],
)
def test_other_weights_have_the_same_graph(name: str):
    run = traced_model(name)
    reseeded = MODELS[name].make(seed=1)
    again = traced(reseeded.module, *reseeded.args, seed=None, certify=False, **reseeded.kwargs)
    assert not torch.equal(next(reseeded.module.parameters()), next(run.module.parameters()))
    assert again.graph.fingerprint() == run.graph.fingerprint()
    permuted = MODELS[name].make()
    assert run.graph.symmetries is not None
    permuted.module.load_state_dict(run.graph.symmetries.random(0).apply(permuted.module.state_dict()))
    moved = traced(permuted.module, *permuted.args, seed=None, certify=False, **permuted.kwargs)
    assert moved.graph.fingerprint() == run.graph.fingerprint()


def test_the_zoo_has_no_two_equal_graphs():
    names = ["rnn", "gru", "lstm", "mlp", "siren", "glu", "highway", "grouped", "grouped_twice", "timm_vit"]
    names = [name for name in names if MODELS[name].available]
    assert len({traced_model(name).graph.fingerprint() for name in names}) == len(names)
