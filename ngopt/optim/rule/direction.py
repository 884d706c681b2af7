"""The direction of a step and the averages behind it. Pure and differentiable, but for bases, which are constants.

Gradients, and so all averages, are in units of the gradient's usual root mean square ``unit``. So neither the scale of
the loss nor an outlier matters, and nothing overflows:

    unit <- unit^.95 min(rms(g), spike * unit)^.05                           (the first time: rms(g))
    g    <- g / max(unit, rms(g) / spike)                                    so that rms(g) is at most spike

Averages of earlier steps are carried over to the new unit, but do not grow by that: where the unit falls faster than
averages forget, as after an outlier in the very first step, they are cut. On these gradients, in the matrix view, with
``t`` from 1:

    R = Q_row^T G Q_col                                                      in the eigenbases of the two sides
    M <- .9 M + .1 R,   N = .9 M + .1 R                                      Nesterov's momentum
    V <- .95 V + .05 R^2                                                     second moments
    D = Q_row [ N / (1 - .9^(t+1)) / sqrt(V / (1 - .95^t)) ] Q_col^T

Momentum lives in the eigenbases and turns with them, which saves half of the rotations.
For a convolution, its taps are a third side. A parameter that is stepped entry by entry has no bases and takes Adam's
direction, ``(M / (1 - .9^t)) / sqrt(V / (1 - .95^t))``. Both point uphill, like the gradient.

Sources: Vyas et al. 2024, "SOAP", arXiv:2409.11321; Kingma & Ba 2015, "Adam", arXiv:1412.6980, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.eigenbasis import (
    first_basis,
    gram,
    is_turn,
    neuron_order,
    next_basis,
    rotate,
    rotate_back,
    split,
    tie_break,
    turn,
)
from ngopt.optim.rule.plan import ParamPlan, Side

ParamState = dict[str, Tensor]
EPS = 3e-6  # beside roots of averages in units of the gradient: above what rounding leaves where there is no gradient
LEAST_UNIT = 1e-37  # a gradient below counts as zero; keeps 0 / 0 out


def rms(x: Tensor) -> Tensor:  # -> []
    """Root mean square of all entries, without overflow."""
    return root_mean_square(torch.linalg.vector_norm(x, dtype=torch.float64), x.numel(), x.dtype)


def root_mean_square(norm: Tensor, count: Tensor | int, dtype: torch.dtype) -> Tensor:  # float64
    """From a norm in float64; finite whatever the norm."""
    return (norm / count**0.5).clamp_max(torch.finfo(dtype).max).to(dtype)


def init_state(param: Tensor, plan: ParamPlan, config: UpdateConfig) -> ParamState:
    """State of a parameter before its first step: keys, shapes and dtypes stay as they are from then on.

    Half-precision parameters get float32 state. Factors of float32 parameters are bfloat16: they decide on bases only.

    Returns:
        A dict of

        * ``step``: steps made, a float32 scalar on the CPU, as in torch;
        * ``initial_rms``: root mean square of the weights, ``[]``;
        * ``guard``: of the network, found in the first step, ``[]``; see `ngopt.optim.rule.guard`;
        * ``unit``: of the gradient, ``[]``;
        * ``momentum``, ``second_moment``: in the eigenbases of the matrix view ``[group, row, col, tap]``, axes padded
          to whole blocks; without sides, shaped like the parameter;
        * ``SIDE_factor``, ``SIDE_basis``: of each side, ``[group, block, size, size]``;
        * ``SIDE_order``: of each side that is ordered, ``[group, length]``;
        * ``controls``: of a parameter on a graph, ``[2]``; see `ngopt.optim.rule.controls`.
    """
    dtype = torch.promote_types(param.dtype, torch.float32)
    weight = param.detach().to(dtype)
    state = {"step": torch.zeros((), dtype=torch.float32), "initial_rms": rms(weight)}
    state |= {"guard": weight.new_zeros(()), "unit": weight.new_zeros(())}
    if plan.sides:
        padded = list(plan.matrix_shape)
        for side in plan.sides:
            padded[side.axis] = side.blocks * side.size
        state["momentum"], state["second_moment"] = weight.new_zeros(padded), weight.new_zeros(padded)
    else:
        state["momentum"], state["second_moment"] = weight.new_zeros(weight.shape), weight.new_zeros(weight.shape)
    for side in plan.sides:
        shape = (plan.matrix_shape[0], side.blocks, side.size, side.size)
        state[f"{side.name}_factor"] = torch.zeros(shape, dtype=factor_dtype(dtype), device=param.device)
        state[f"{side.name}_basis"] = weight.new_zeros(shape)
        if side.ordered:
            state[f"{side.name}_order"] = neuron_order(plan.view(weight), side)
    if plan.block is not None:
        state["controls"] = weight.new_zeros(2)
    return state


def factor_dtype(dtype: torch.dtype) -> torch.dtype:
    """Number type of factors, by that of the rest of the state."""
    return torch.bfloat16 if dtype == torch.float32 else dtype


def next_unit(size: Tensor, unit: Tensor, config: UpdateConfig) -> tuple[Tensor, Tensor, Tensor]:  # of like shape
    """The unit after one more gradient; a gradient of zeros says nothing about it.

    Args:
        size: Root mean square of the gradient.
        unit: The unit so far; zero before the first gradient.
        config: Settings.

    Returns:
        What to divide the gradient by; the new unit; what carries averages over to it, ``old / new``.
    """
    decay, floor = config.second_moment, LEAST_UNIT
    seen = torch.minimum(size, config.spike * unit).clamp_min(floor)
    new = torch.exp(decay * torch.log(unit.clamp_min(floor)) + (1.0 - decay) * torch.log(seen))
    new = torch.where(size > 0, torch.where(unit > 0, new, size), unit)
    divisor = torch.maximum(new, size / config.spike).clamp_min(floor)
    return divisor, new, (unit / new.clamp_min(floor)).clamp_max(decay**-0.5)


def average(old: Tensor, new: Tensor, decay: float, keep: Tensor) -> Tensor:
    """Exponential moving average, where ``keep`` is ``decay`` times what carries the old value over to the new unit."""
    return torch.add(old * keep, new, alpha=1.0 - decay)


def accumulate(
    sides: tuple[Side, ...],
    weight: Callable[[], Tensor],
    gradient: Tensor,
    carry: Tensor,
    state: ParamState,
    count: int,
    config: UpdateConfig,
) -> tuple[Tensor, ParamState]:
    """The averages after one more gradient, and the gradient in the eigenbases.

    Takes one tensor, or a stack of tensors with the same plan, joined along their first axis.

    Args:
        sides: Of the plan.
        weight: Gives the value before the step, in the matrix view ``[group, row, col, tap]``. Asked for in few steps.
        gradient: In units; in the matrix view if there are sides.
        carry: What carries averages over to the new unit; a number, or to broadcast against the gradient.
        state: From `init_state` or an earlier step.
        count: Number of this step of the parameter, from 1.
        config: Settings.
    """
    new, momentum = {}, state["momentum"]
    keep_squares = config.second_moment * carry.square()
    for side in sides:
        factor, basis = _follow(side, weight, gradient.detach(), state, keep_squares, count, config)
        if basis is not None:
            momentum = turn(momentum, side, state[f"{side.name}_basis"], basis) if count > 1 else momentum
            new[f"{side.name}_basis"] = basis
        new[f"{side.name}_factor"] = factor
    gradient = into_bases(sides, gradient, {**state, **new})
    new["momentum"] = average(momentum, gradient, config.momentum, config.momentum * carry)
    new["second_moment"] = average(state["second_moment"], gradient.square(), config.second_moment, keep_squares)
    return gradient, new


@torch.no_grad()
def _follow(
    side: Side,
    weight: Callable[[], Tensor],
    gradient: Tensor,
    state: ParamState,
    keep: Tensor,
    count: int,
    config: UpdateConfig,
) -> tuple[Tensor, Tensor | None]:
    """Factor of one side after one more gradient, and its basis if that turns."""
    order, factor = state.get(f"{side.name}_order"), state[f"{side.name}_factor"]
    found = gram(split(gradient, side, order))
    if count > 1:
        found = average(factor.to(found.dtype), found, config.second_moment, keep)
    factor = found.to(factor.dtype)
    if count > 1 and not is_turn(count, side, config.bases_every):
        return factor, None
    ties = tie_break(weight(), side, order, config.tie_break)
    return factor, first_basis(factor, ties) if count == 1 else next_basis(factor, ties, state[f"{side.name}_basis"])


def into_bases(sides: tuple[Side, ...], x: Tensor, state: ParamState) -> Tensor:
    """Coordinates in the eigenbases of all sides."""
    for side in sides:
        x = rotate(x, side, state[f"{side.name}_basis"], state.get(f"{side.name}_order"))
    return x


def out_of_bases(sides: tuple[Side, ...], x: Tensor, state: ParamState) -> Tensor:
    """Inverse of `into_bases`."""
    for side in reversed(sides):
        x = rotate_back(x, side, state[f"{side.name}_basis"], state.get(f"{side.name}_order"))
    return x


def direction(
    sides: tuple[Side, ...],
    gradient: Tensor,  # in units and in the eigenbases
    state: ParamState,  # after `accumulate`
    count: int,
    config: UpdateConfig,
) -> Tensor:  # in the matrix view if there are sides
    """Where the loss rises, as SOAP or Adam see it; entries have a root mean square of at most about one."""
    momentum, decay = state["momentum"], config.momentum
    root = (state["second_moment"] / (1.0 - config.second_moment**count) + EPS**2).sqrt()
    if not sides:
        return momentum / root / (1.0 - decay**count)
    nesterov = torch.add(decay * momentum, gradient, alpha=1.0 - decay)
    return out_of_bases(sides, nesterov / root / (1.0 - decay ** (count + 1)), state)
