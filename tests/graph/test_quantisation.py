"""Quantisation-aware training: neurons are found through fake quantisation, whoever writes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import Tensor, nn

import ngopt
from ngopt.graph.quantisation import WRITTEN_OUT

aten = torch.ops.aten
RANGE = (-128, 127)


def straight_through(weight: Tensor) -> Tensor:
    step = weight.abs().max() / 127
    return weight + ((weight / step).round() * step - weight).detach()


class Quantised(nn.Module):
    """Two hidden layers, the weight between them quantised by one of the ops."""

    def __init__(self, quantise: Callable[[Quantised, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 7), nn.Linear(7, 11), nn.Linear(11, 3)
        self.step, self.zero = nn.Parameter(torch.tensor([0.02])), nn.Parameter(torch.tensor([1.0]))
        self.steps, self.zeros = nn.Parameter(torch.full((11,), 0.02)), nn.Parameter(torch.zeros(11))
        self.register_buffer("no_zero", torch.zeros(11, dtype=torch.int32))
        self.register_buffer("fixed", torch.linspace(0.01, 0.02, 11))
        self.quantise = quantise

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.third(F.gelu(F.linear(x, self.quantise(self, self.second.weight), self.second.bias)))


QUANTISERS: dict[str, Callable[[Quantised, Tensor], Tensor]] = {
    "by hand": lambda m, w: straight_through(w),
    "per tensor": lambda m, w: torch.fake_quantize_per_tensor_affine(w, 0.02, 3, *RANGE),
    "per tensor, settings as tensors": lambda m, w: torch.fake_quantize_per_tensor_affine(
        w, m.fixed[0], m.no_zero[0], *RANGE
    ),
    "per channel": lambda m, w: torch.fake_quantize_per_channel_affine(
        w, w.detach().abs().amax(1) / 127, m.no_zero, 0, *RANGE
    ),
    "learned": lambda m, w: torch._fake_quantize_learnable_per_tensor_affine(w, m.step, m.zero, *RANGE, 1.0),
    "learned per channel": lambda m, w: torch._fake_quantize_learnable_per_channel_affine(
        w, m.steps, m.zeros, 0, *RANGE, 1.0
    ),
}


@pytest.mark.parametrize("name", QUANTISERS)
def test_neurons_are_found_through_every_op(name: str) -> None:
    graph = ngopt.trace(Quantised(QUANTISERS[name]), torch.randn(4, 5), strict=True)
    assert graph.certified
    assert sorted(s.degree for s in graph.symmetries) == [7, 11]


def test_channels_with_different_fixed_steps_are_different() -> None:
    graph = ngopt.trace(
        Quantised(lambda m, w: torch.fake_quantize_per_channel_affine(w, m.fixed, m.no_zero, 0, *RANGE)),
        torch.randn(4, 5),
        strict=True,
    )
    assert graph.certified
    assert [s.degree for s in graph.symmetries] == [7]


def prepared(network: nn.Module, backend: str | None) -> nn.Module:
    """As `torch.ao.quantization` makes it, per channel (fbgemm) or per tensor."""
    model = quantization.QuantWrapper(network).train()
    config = quantization.get_default_qat_qconfig(backend) if backend else quantization.default_qat_qconfig
    model.qconfig = config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return quantization.prepare_qat(model)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 11, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(11, 3)),
    )


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack", None])
@pytest.mark.parametrize(("build", "shape"), [(mlp, (5,)), (cnn, (2, 8, 8))])
@pytest.mark.parametrize("stage", ["fresh", "observed", "observers off"])
def test_models_of_torch(
    backend: str | None, build: Callable[[], nn.Module], shape: tuple[int, ...], stage: str
) -> None:
    """Before anything was observed, later, and once settings are fixed; the observations are those of the user's."""
    torch.manual_seed(0)
    model, x = prepared(build(), backend), torch.randn(4, *shape)
    if stage != "fresh":
        model(x)
    if stage == "observers off":
        model.apply(quantization.disable_observer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = ngopt.trace(model, x, strict=True)
    assert graph.certified
    assert sorted(s.degree for s in graph.symmetries) == [7, 11]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_training() -> None:
    torch.manual_seed(0)
    model, x = prepared(mlp(), "fbgemm"), torch.randn(64, 5)
    y = x[:, :3].argmax(1)
    optimizer, losses = ngopt.NGOptimizer(model.parameters()), []
    for _ in range(40):
        losses.append(F.cross_entropy(model(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert optimizer.graph is not None and optimizer.graph.certified
    assert losses[-1] < 0.6 * losses[0]


# ---- what is written out is what torch does

ONE, CHANNELS = (torch.tensor([0.03]), torch.tensor([2])), (torch.linspace(0.01, 0.04, 6), torch.arange(6).int() - 3)
CALLS = {
    aten.fake_quantize_per_tensor_affine_cachemask.default: [(0.03, 2, -8, 7)],
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: [
        (*ONE, torch.tensor([on]), -8, 7) for on in (0, 1)
    ],
    aten.fake_quantize_per_channel_affine_cachemask.default: [(*CHANNELS, 1, -8, 7)],
    aten._fake_quantize_learnable_per_tensor_affine.default: [(ONE[0], torch.tensor([9.4]), -8, 7)],
    aten._fake_quantize_learnable_per_channel_affine.default: [(CHANNELS[0], CHANNELS[1] + 0.4, 1, -8, 7)],
}


@pytest.mark.parametrize("op", CALLS, ids=str)
def test_an_op_written_out_is_the_op(op: Callable[..., object]) -> None:
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) / 5
    for rest in CALLS[op]:
        torch.testing.assert_close(WRITTEN_OUT[op](x, *rest), op(x, *rest))


@pytest.mark.parametrize("on", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shift", [0.0, 2.0, -2.0])
def test_observing_written_out_is_observing(
    on: tuple[int, int], by_channel: bool, symmetric: bool, shift: float
) -> None:
    """In place, twice: what is observed first is taken as it is. Entries on both sides of zero, or on one."""
    op = aten._fused_moving_avg_obs_fq_helper.default
    size = 4 if by_channel else 1
    low, high = -128, 127
    switches = [torch.tensor([value]) for value in on]
    start = [torch.full((size,), -0.4), torch.full((size,), 0.5)]
    if on[0]:
        start = [torch.full((size,), float("inf")), torch.full((size,), float("-inf"))]
    settings = [*start, torch.full((size,), 0.01), torch.zeros(size, dtype=torch.int32)]
    one, two = ([s.clone() for s in settings] for _ in range(2))
    for seed in range(2):
        x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(seed)) + shift
        rest = (0.3, low, high, 0, by_channel, symmetric)
        torch.testing.assert_close(WRITTEN_OUT[op](x, *switches, *one, *rest), op(x, *switches, *two, *rest))
        torch.testing.assert_close(one, two)
