"""The rivals are torch's own optimizers: the wrapper changes who gets which parameter, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.rivals import RIVALS, adamw, make_rival, muon, warmup_linear
from benchmarks.models import MODELS, fm16


def test_fm16_is_the_published_network() -> None:
    assert sum(p.numel() for p in fm16().parameters()) == 14_378
    assert sum(p.numel() for p in fm16(3).parameters()) == 14_666
    model = MODELS["fm16"](1)
    x = torch.zeros(2, 1, 28, 28)
    shapes = []
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 13, 13), (32, 13, 13), (32, 13, 13)]


def test_schedule_warms_up_and_falls_to_zero() -> None:
    factor = warmup_linear(1000, warmup=50)
    assert factor(0) == pytest.approx(1 / 50)
    assert factor(49) == pytest.approx(0.951)
    assert factor(500) == pytest.approx(0.5)
    assert factor(1000) == 0.0


def gradients(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 1, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def test_muon_on_kernels_is_torchs_muon_on_matrices() -> None:
    torch.manual_seed(0)
    model = fm16()
    rival = muon(model, 10, lr=0.1, adam_lr=0.02, momentum=0.9)
    kernels = [p for p in model.parameters() if p.ndim == 4]
    matrices = [nn.Parameter(p.detach().clone().flatten(1)) for p in kernels]
    expected = torch.optim.Muon(matrices, lr=0.1, momentum=0.9, weight_decay=0.0)
    factor = warmup_linear(10)
    for step in range(6):
        rival.zero_grad()
        gradients(model, step)
        for matrix, kernel in zip(matrices, kernels, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.flatten(1).clone()
        rival.step()
        expected.param_groups[0]["lr"] = 0.1 * factor(step)
        expected.step()
        for matrix, kernel in zip(matrices, kernels, strict=True):
            assert torch.equal(kernel.flatten(1), matrix)


def test_every_parameter_goes_to_one_optimizer() -> None:
    model = fm16()
    on_muon, on_adamw = (
        [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
        for optimizer in muon(model, 10, lr=0.1, adam_lr=0.02).optimizers
    )
    assert on_muon == [(16, 9), (32, 144), (32, 288)]
    assert on_adamw == [(16,), (32,), (32,), (10, 32), (10,)]


def test_adamw_is_torchs() -> None:
    torch.manual_seed(0)
    model, twin = fm16(), fm16()
    twin.load_state_dict(model.state_dict())
    rival = adamw(model, 10, lr=0.02, weight_decay=0.01, beta2=0.99)
    expected = torch.optim.AdamW(twin.parameters(), lr=0.02, weight_decay=0.01, betas=(0.9, 0.99))
    for step in range(6):
        for network, optimizer in ((model, rival), (twin, expected)):
            optimizer.zero_grad()
            gradients(network, step)
        expected.param_groups[0]["lr"] = 0.02 * warmup_linear(10)(step)
        rival.step()
        expected.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_learn(name: str) -> None:
    torch.manual_seed(0)
    model = fm16()
    settings = {"SGD": {"lr": 0.5}, "Muon": {"lr": 0.1, "adam_lr": 0.02}}.get(name, {"lr": 0.02})
    rival = make_rival(name, model, 40, settings)
    losses = []
    for _ in range(40):
        rival.zero_grad()
        losses.append(float(gradients(model, 0)))  # one batch, again and again
        rival.step()
    share = 1.0 if name == "Prodigy" else 0.7  # Prodigy finds its rate first, which takes longer than these 40 steps
    assert losses[-1] < share * losses[0]


def test_zero_grad_leaves_no_gradient() -> None:
    model = fm16()
    rival = muon(model, 10, lr=0.1, adam_lr=0.02)
    gradients(model, 0)
    rival.step()
    rival.zero_grad()
    assert all(p.grad is None for p in model.parameters())
