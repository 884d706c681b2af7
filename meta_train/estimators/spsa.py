r"""Simultaneous perturbation of what the rule says: whole runs of any length, without backpropagation through them.

Evolution strategies that perturb meta-parameters have to find their signal in thousands of dimensions. A run feels them
through a few numbers per tensor, the rule's actions :math:`a_n` (how far to step, which direction to mix in). So move
those: antithetic pairs of optimizees make the whole run with :math:`a_n(t) \pm \sum_k \epsilon_{nk} \phi_k(t)`, and the
rule learns to say what would have been better, and when:

.. math::

    c_{nk} = \frac{1}{2 P \sigma_k^2} \sum_{i=1}^{P} \epsilon_{ink} \, (L_i^+ - L_i^-), \qquad
    g = \sum_{nk} c_{nk} \frac{\partial}{\partial \theta} \overline{\phi_k a_n}

:math:`\phi_0 = 1` and :math:`\phi_1 = \sqrt 3 (2 t / T - 1)` are orthonormal over the run: a move of all of it, and one
from its start to its end. The bar is a mean over optimizees and over a few steps of the run. :math:`\epsilon_n` has a
part that all tensors of a network share, since what is done to all of them matters most, and a part of its own. Both of
a pair start from the same weights and see the same batches. Unlike backpropagation, which is confined to short runs,
this sees what an action does to the end of a long run.

Sources: Spall 1992, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation",
IEEE Transactions on Automatic Control 37(3); perturbing what a network says instead of its weights is "node
perturbation" (Werfel, Xie & Seung 2005, "Learning curves for stochastic gradient descent in linear feedforward
networks", Neural Computation 17(12)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meta_train.inner import Stack, losses_of
from meta_train.rules import State
from meta_train.seeds import generator
from meta_train.tasks import Task
from meta_train.theta import Theta, flatten
from meta_train.unroll import Objective, meta_losses

SHARED = 0.5  # share of a perturbation's variance that all tensors of a network have in common
LARGEST = 1.0  # difference of meta-losses that counts: a run that diverged says "worse", and no more
LOOKS = tuple((k + 0.5) / 6 for k in range(6))  # when, as shares of the run, actions are looked at
TILT = 0.5  # of a move from the start of a run to its end, relative to one of all of it


def perturbations(
    seed: int,
    pairs: int,
    sigmas: Tensor,  # [action]
    names: list[str],
) -> dict[str, Tensor]:  # each [2 * pair, time, action]
    """Moves of the actions of each tensor along `in_time`: of the first of each pair, then with the other sign."""
    drawn = torch.randn(1 + len(names), pairs, 2, len(sigmas), generator=generator("perturbation", seed))
    own = (SHARED**0.5 * drawn[:1] + (1.0 - SHARED) ** 0.5 * drawn[1:]) * spreads(sigmas).to(drawn)
    return {name: torch.cat([one, -one]).to(sigmas) for name, one in zip(names, own, strict=True)}


def spreads(sigmas: Tensor) -> Tensor:  # [action] -> [time, action]
    """Standard deviations of moves of all of the run, and from its start to its end."""
    return torch.stack([sigmas, TILT * sigmas])


def in_time(done: float) -> tuple[float, float]:
    """What moves are multiplied by when this share of the run is over: two functions, orthonormal over the run."""
    return 1.0, 3.0**0.5 * (2.0 * done - 1.0)


def moves_at(moves: dict[str, Tensor], done: float) -> dict[str, Tensor]:  # each [2 * pair, action]
    """What is added to actions when this share of the run is over."""
    shape = in_time(done)
    return {name: torch.tensor(shape).to(own) @ own for name, own in moves.items()}


def spsa(
    step: Callable[..., tuple[Stack, Tensor]],
    actions: Callable[[State], dict[str, Tensor]],
    theta: Theta,
    task: Task,
    stack: Stack,
    *,
    moves: dict[str, Tensor],
    sigmas: Tensor,
    objective: Objective,
) -> tuple[Tensor, Stack, Tensor]:
    """Gradient of the meta-loss of a whole run.

    Args:
        step: From `meta_train.inner.make_step`, with the moves.
        actions: Reads the rule's actions off the state, each ``[optimizee, action]``.
        theta: Meta-parameters; all get a gradient.
        task: What the optimizees learn.
        stack: Pairs before their first step.
        moves: From `perturbations`.
        sigmas: Standard deviations of moves of the whole run, ``[action]``.
        objective: The meta-loss.

    Returns:
        The gradient ``[dim]``; the stack after the run; losses ``[steps, optimizee]``.
    """
    looks = {round(share * stack.horizon) // 10 * 10 for share in LOOKS}  # controls are made anew in every tenth step
    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    seen, losses = [], []
    while not stack.done:
        look = stack.step in looks
        with torch.set_grad_enabled(look):
            stack, before = step(theta, stack)
        if look:
            seen.append((in_time((stack.step - 1) / stack.horizon), actions(stack.state)))
        stack = stack.detached()
        losses.append(before.detach())
    after_each = torch.stack([*losses[1:], losses_of(task, stack)])
    own = meta_losses(objective, after_each, 0, stack.horizon)
    plus, minus = torch.where(torch.isfinite(own), own, math.inf).chunk(2)
    worse = (plus - minus).clamp(-LARGEST, LARGEST)  # NaN where both of a pair diverged
    told = ~worse.isnan()
    worse = torch.where(told, worse, 0.0) / (2 * max(1, int(told.sum())))
    spread = spreads(sigmas).to(worse)
    against = {name: torch.tensordot(worse, own[: len(worse)].to(worse), 1) / spread**2 for name, own in moves.items()}
    said = sum(
        (worse.new_tensor(shape) @ against[name] * own.mean(0)).sum()
        for shape, one in seen
        for name, own in one.items()
    ) / len(seen)
    grads = torch.autograd.grad(said, list(theta.values()), materialize_grads=True)
    return flatten(dict(zip(theta, grads, strict=True))).detach(), stack, after_each
