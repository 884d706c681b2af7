"""Gradients that are finite, but enormous or tiny: weights and state stay finite, and training goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ngopt
from tests.optim.ngoptimizer_cases import batch, make_mlp

Spoil = Callable[[list[Tensor], float], None]


def one_entry(grads: list[Tensor], size: float) -> None:
    grads[0].view(-1)[3] = size


def one_row(grads: list[Tensor], size: float) -> None:
    grads[0][1] = size


def one_tensor(grads: list[Tensor], size: float) -> None:
    grads[2].fill_(size)


def all_tensors(grads: list[Tensor], size: float) -> None:
    for grad in grads:
        grad.copy_(size * torch.sign(grad))


SPOILS = [one_entry, one_row, one_tensor, all_tensors]


def losses_of(
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    steps: int,
    spoil: Callable[[int, list[Tensor]], None] = lambda step, grads: None,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[float], nn.Module, torch.optim.Optimizer]:
    """Train a small classifier, with gradients changed on the way."""
    model = make_mlp(dtype=dtype)
    made, losses = optimizer(model), []
    for step in range(steps):
        x, target = batch(step % 4, dtype)
        loss = nn.functional.cross_entropy(model(x).float(), target)
        made.zero_grad()
        loss.backward()
        spoil(step, [param.grad for param in model.parameters()])
        made.step()
        losses.append(loss.item())
    return losses, model, made


def assert_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    assert all(bool(param.isfinite().all()) for param in model.parameters())
    for state in optimizer.state.values():
        assert all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("graph", [None, False])
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("at", [0, 29])
@pytest.mark.parametrize("size", [1e18, 3e38])
def test_one_enormous_gradient(size: float, at: int, spoil: Spoil, graph: bool | None) -> None:
    losses, model, optimizer = losses_of(
        lambda model: ngopt.NGOptimizer(model, graph=graph),
        at + 160,
        lambda step, grads: spoil(grads, size) if step == at else None,
    )
    assert_finite(model, optimizer)
    assert max(losses[-4:]) < 0.5 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_number_of_every_precision(dtype: torch.dtype) -> None:
    _, model, optimizer = losses_of(
        ngopt.NGOptimizer,
        12,
        lambda step, grads: all_tensors(grads, torch.finfo(dtype).max) if step in (0, 5, 6) else None,
        dtype,
    )
    assert_finite(model, optimizer)


def steps_to(losses: list[float], target: float, after: int) -> int:
    """Steps after some step until the mean of the last four losses is at most the target."""
    for end in range(after + 4, len(losses)):
        if sum(losses[end - 4 : end]) / 4 <= target:
            return end - after
    return len(losses)


@pytest.mark.parametrize("factor", [1e4, 1e8])
def test_recovery_from_a_spike_takes_no_longer_than_with_adamw(factor: float) -> None:
    def spike(step: int, grads: list[Tensor]) -> None:
        for grad in grads if step == 20 else []:
            grad.mul_(factor)

    ours, *_ = losses_of(ngopt.NGOptimizer, 400, spike)
    adamw, *_ = losses_of(lambda model: torch.optim.AdamW(model.parameters(), 0.02), 400, spike)
    target = 0.5 * ours[0]
    assert steps_to(ours, target, 21) <= 3 * steps_to(adamw, target, 21)


@pytest.mark.parametrize("factor", [1e6, 1e-6])
def test_jumps_of_the_loss_scale(factor: float) -> None:
    def jump(step: int, grads: list[Tensor]) -> None:
        for grad in grads if step % 10 == 7 else []:
            grad.mul_(factor)

    losses, model, optimizer = losses_of(ngopt.NGOptimizer, 120, jump)
    assert_finite(model, optimizer)
    assert sum(losses[-8:]) / 8 < 0.5 * losses[0]


@pytest.mark.parametrize("scale", [1e-14, 1e12])
def test_the_scale_of_the_loss_changes_nothing_but_rounding(scale: float) -> None:
    def scaled(step: int, grads: list[Tensor]) -> None:
        for grad in grads:
            grad.mul_(scale)

    plain, *_ = losses_of(ngopt.NGOptimizer, 12, dtype=torch.float64)
    found, *_ = losses_of(ngopt.NGOptimizer, 12, scaled, dtype=torch.float64)
    assert found == pytest.approx(plain, rel=1e-6)


def test_a_tensor_whose_gradient_was_zero_for_long_moves_at_once() -> None:
    """As behind a LoRA matrix that begins at zero, or an expert that nothing chose."""

    def silent(step: int, grads: list[Tensor]) -> None:
        if step < 60:
            grads[0].zero_()

    moved = []
    for steps in (60, 61):  # before the first gradient, which is the control, and after it
        _, model, _ = losses_of(lambda model: ngopt.NGOptimizer(model, graph=False), steps, silent)
        moved.append((model[0].weight - make_mlp()[0].weight).square().mean().sqrt().item())
    assert moved[0] == 0.0
    assert moved[1] > 0.01  # 0.08 / sqrt(5) at most


def test_control_adamw_is_spoiled_by_what_we_survive() -> None:
    """These gradients do overflow: AdamW's weights are not finite, or never move again."""
    losses, model, _ = losses_of(
        lambda model: torch.optim.AdamW(model.parameters(), 0.02),
        64,
        lambda step, grads: all_tensors(grads, 3e38) if step == 4 else None,
    )
    stuck = max(losses[-4:]) >= 0.5 * losses[0]
    assert stuck or not all(bool(param.isfinite().all()) for param in model.parameters())
