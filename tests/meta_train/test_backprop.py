"""The segmented gradient against plain autograd, in double precision; truncation, damping, divergence."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from meta_train_cases import PowerTask, RateRule, moved_rule, thetas, tiny
from torch import Tensor

from meta_train.estimators.backprop import backprop
from meta_train.inner import Stack, make_step, start
from meta_train.rules import LearnedRule
from meta_train.theta import Theta, flatten
from meta_train.unroll import Objective, meta_losses, unroll

STEPS, HORIZON = 6, 9
OBJECTIVE = Objective(late=0.5, last=0.6)


@lru_cache(maxsize=1)
def case() -> tuple[LearnedRule, object, Stack, Theta]:
    """ngopt's rule on a tiny network."""
    rule, task = moved_rule(), tiny(torch.Generator().manual_seed(0))
    stack = start(rule, task, count=3, horizon=HORIZON, seed=1)
    stack = stack.with_tensors(x.double() for x in stack.tensors())
    return rule, task, stack, thetas(rule)


def plain(rule: LearnedRule, task: object, stack: Stack, theta: Theta, steps: int, kept: list[int]) -> Tensor:
    """Gradient by autograd through everything, of the mean meta-loss of some optimizees."""
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    _, losses = unroll(make_step(rule, task), theta, task, stack, steps)
    own = meta_losses(OBJECTIVE, losses, stack.step, stack.horizon)
    grads = torch.autograd.grad(own[kept].mean(), list(theta.values()), materialize_grads=True)
    return flatten(dict(zip(theta, grads, strict=True)))


def segmented(rule, task, stack, theta, steps: int, segment: int, damping: float = 1.0) -> Tensor:
    step = make_step(rule, task)
    settings = {"steps": steps, "segment": segment, "objective": OBJECTIVE, "damping": damping}
    return backprop(step, theta, task, stack, **settings)[0]


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@lru_cache(maxsize=1)
def whole() -> Tensor:
    return plain(*case(), STEPS, [0, 1, 2])


@pytest.mark.parametrize("segment", [1, 2, 4, 6, 50])
def test_segments_change_nothing(segment: int) -> None:
    assert error(segmented(*case(), STEPS, segment), whole()) < 1e-10
    if segment < STEPS:  # control: they do when the derivative between them is changed
        assert error(segmented(*case(), STEPS, segment, damping=0.9), whole()) > 1e-5


def test_the_stack_moves_on_as_without_a_gradient() -> None:
    rule, task, stack, theta = case()
    before = [x.clone() for x in stack.tensors()]
    _, after, losses = backprop(make_step(rule, task), theta, task, stack, steps=5, segment=2, objective=OBJECTIVE)
    with torch.no_grad():
        expected, their_losses = unroll(make_step(rule, task), theta, task, stack, 5)
    assert after.step == 5 and torch.equal(losses, their_losses)
    assert all(torch.equal(x, y) for x, y in zip(after.tensors(), expected.tensors(), strict=True))
    assert not any(x.requires_grad for x in after.tensors())
    assert all(torch.equal(x, y) for x, y in zip(before, stack.tensors(), strict=True))  # and the old one stays


def test_truncation_cuts_what_came_before() -> None:
    rule, task, stack, theta = case()
    live = {name: value.clone().requires_grad_() for name, value in theta.items()}
    attached, _ = unroll(make_step(rule, task), live, task, stack, 3)
    cut = segmented(rule, task, attached.detached(), theta, 3, 3)
    assert torch.equal(segmented(rule, task, attached, theta, 3, 3), cut)
    # control: the derivative through the first steps is not small
    _, losses = unroll(make_step(rule, task), live, task, attached, 3)
    own = meta_losses(OBJECTIVE, losses, 3, HORIZON).mean()
    full = torch.autograd.grad(own, list(live.values()), materialize_grads=True)
    assert error(cut, flatten(dict(zip(live, full, strict=True)))) > 1e-2


def test_damping_zero_truncates_at_segments() -> None:
    rule, task, stack, theta = case()
    expected, segment = torch.zeros_like(flatten(theta)), 2
    for _ in range(STEPS // segment):
        expected += segmented(rule, task, stack, theta, segment, segment) * segment / STEPS
        with torch.no_grad():
            stack = unroll(make_step(rule, task), theta, task, stack, segment)[0].detached()
    found = segmented(*case(), STEPS, segment, damping=0.0)
    assert error(found, expected) < 1e-10
    assert error(found, whole()) > 1e-3  # control


@pytest.mark.parametrize("segment", [1, 3, 8])
def test_an_optimizee_that_diverges_has_no_part(segment: int) -> None:
    """On ``w ** 4`` a large weight grows faster than exponentially, to infinity within the steps; a small one falls."""
    rule, steps = RateRule(), 8
    rows = torch.tensor([[1.0, 0.5], [60.0, 60.0], [0.8, 1.2]], dtype=torch.float64)
    task, theta = PowerTask(rows, torch.ones(2, dtype=torch.float64), power=4), thetas(rule)
    stack = start(rule, task, count=3, horizon=steps, seed=0)  # type: ignore[arg-type]
    gradient, after, losses = backprop(
        make_step(rule, task), theta, task, stack, steps=steps, segment=segment, objective=OBJECTIVE  # type: ignore
    )  # fmt: skip
    assert torch.isfinite(losses[0]).all() and not torch.isfinite(losses[-1]).all()  # it does so on the way
    assert not torch.isfinite(after.weights["w"][1]).any()  # and is not brought back
    others = PowerTask(rows[[0, 2]], task.scale, power=4)
    pair = start(rule, others, count=2, horizon=steps, seed=0)  # type: ignore[arg-type]
    assert error(gradient, plain(rule, others, pair, theta, steps, [0, 1])) < 1e-10
    # control: the plain gradient is lost
    assert not torch.isfinite(plain(rule, task, stack, theta, steps, [0, 2])).all()


def test_nothing_is_learned_when_all_diverge() -> None:
    rule = RateRule()
    task = PowerTask(torch.full((2, 2), 60.0), torch.ones(2), power=4)
    stack = start(rule, task, count=2, horizon=8, seed=0)  # type: ignore[arg-type]
    theta = {name: value.detach() for name, value in rule.named_parameters()}
    assert not segmented(rule, task, stack, theta, 8, 4).any()
    assert segmented(rule, PowerTask(torch.ones(2, 2), task.scale), stack, theta, 1, 4).any()  # control
