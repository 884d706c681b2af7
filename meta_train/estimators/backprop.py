"""Backpropagation through the inner steps: second order, in segments that are computed twice to save memory.

The derivative flows through the optimizee's gradients (a Hessian-vector product per step); what the encoder reads is
detached in `ngopt.optim.update`. Truncation: one call covers ``steps`` inner steps, and no derivative reaches further
back. Inside a call only the stack at the start of each segment is kept, and each segment is unrolled again on the way
back, so that memory is that of one segment, however long the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meta_train.inner import Stack
from meta_train.tasks import Task
from meta_train.theta import Theta, flatten
from meta_train.unroll import Objective, meta_losses, unroll


def backprop(
    step: Callable[..., tuple[Stack, Tensor]],
    theta: Theta,
    task: Task,
    stack: Stack,
    *,
    steps: int,
    segment: int,
    objective: Objective,
    damping: float = 1.0,
    growth: float = math.inf,
) -> tuple[Tensor, Stack, Tensor]:
    """Gradient of the meta-loss of the next ``steps`` inner steps, in the mean of the optimizees.

    Args:
        step: From `meta_train.inner.make_step`, with shared meta-parameters.
        theta: Meta-parameters; all get a gradient.
        task: What the optimizees learn.
        stack: Where they stand.
        steps: How many steps: the truncation.
        segment: Steps that are held in memory at once.
        objective: The meta-loss.
        damping: Factor on the derivative that passes from a segment to the one before it, against explosions.
        growth: After that, the derivative of an optimizee is scaled down to be at most so many times as large as the
            one that came into the segment: chaotic runs (SIREN) overflow otherwise.

    Returns:
        The gradient ``[dim]``; the stack after the steps; losses ``[steps, optimizee]``. Optimizees with a loss or
        weight that is not finite have no part in the gradient.
    """
    sizes = [min(segment, steps - done) for done in range(0, steps, segment)]
    starts, losses = [stack.detached()], []
    with torch.no_grad():
        for size in sizes:
            after, part = unroll(step, theta, task, starts[-1], size)
            starts.append(after.detached())
            losses.append(part)
    end = starts.pop()
    finite = finite_optimizees(end, torch.cat(losses))
    share = 1.0 / (steps * max(1, int(finite.sum())))

    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total = torch.zeros_like(flatten(theta))
    if not finite.any():
        return total.detach(), end, torch.cat(losses)
    cotangents: list[Tensor] = []
    for begin, size in zip(reversed(starts), reversed(sizes), strict=True):
        leaves = [x.requires_grad_(x.is_floating_point()) for x in _replaced(finite, begin).tensors()]
        after, part = unroll(step, theta, task, begin.with_tensors(leaves), size)
        own = meta_losses(objective, part, begin.step, begin.horizon)
        outputs, seeds = [own], [finite.to(own) * (size * share)]
        for x, cotangent in zip(after.tensors(), cotangents, strict=False):
            if x.requires_grad:
                outputs.append(x)
                seeds.append(cotangent)
        wanted = [*theta.values(), *(leaf for leaf in leaves if leaf.requires_grad)]
        grads = torch.autograd.grad(outputs, wanted, seeds, materialize_grads=True)
        total += flatten(dict(zip(theta, grads, strict=False)))
        passed = iter(grads[len(theta) :])
        before = cotangents
        cotangents = [damping * _of(finite, next(passed)) if leaf.requires_grad else leaf for leaf in leaves]
        if before and growth < math.inf:
            cotangents = _limited(cotangents, growth * _norms(before))
    return total.detach(), end, torch.cat(losses)


def finite_optimizees(stack: Stack, losses: Tensor) -> Tensor:  # losses [steps, optimizee] -> bool [optimizee]
    """Which optimizees have finite losses and weights."""
    finite = torch.isfinite(losses).all(0)
    for x in stack.weights.values():
        finite = finite & torch.isfinite(x.flatten(1)).all(1)
    return finite


def _replaced(finite: Tensor, stack: Stack) -> Stack:
    """Dropped optimizees become copies of one that is not: zero times the infinite derivative of theirs is not zero."""
    if finite.all():
        return stack
    order = torch.where(finite, torch.arange(len(finite), device=finite.device), finite.int().argmax())
    return stack.with_tensors(x[order] for x in stack.tensors())


def _norms(cotangents: list[Tensor]) -> Tensor:  # each [optimizee, ...] -> [optimizee]
    """Euclidean norms over all tensors."""
    return torch.stack([x.flatten(1).norm(dim=1) if x.ndim > 1 else x.abs() for x in cotangents]).norm(dim=0)


def _limited(cotangents: list[Tensor], limit: Tensor) -> list[Tensor]:
    """Each optimizee's derivative scaled down to a norm; zero where it is not finite."""
    norms = _norms(cotangents)
    finite, scale = torch.isfinite(norms), (limit / norms.clamp_min(1e-30)).clamp_max(1.0)
    return [_of(finite, x * scale.view(-1, *[1] * (x.ndim - 1))) for x in cotangents]


def _of(finite: Tensor, grad: Tensor) -> Tensor:
    """Zero for optimizees that are dropped."""
    return torch.where(finite.view(-1, *[1] * (grad.ndim - 1)), grad, 0.0)
