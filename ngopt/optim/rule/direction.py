"""The direction of a step and the averages behind it. Pure and differentiable, but for bases, which are constants.

Gradients, and so all averages, are in units of the gradient's usual root mean square ``unit``. So neither the scale of
the loss nor an outlier matters, and nothing overflows:

    unit <- unit^d min(rms(g), spike * unit)^(1-d)                           (the first time: rms(g))
    g    <- g / max(unit, rms(g) / spike)                                    so that rms(g) is at most spike

The unit is renewed in each of the first ten steps, with ``d = .95``, and then in every tenth, with ``d = .95^10``.
Averages of earlier steps are carried over to the new unit, but do not grow by that: where the unit falls faster than
averages forget, as after an outlier in the very first step, they are cut. On these gradients, in the matrix view, with
``t`` from 1:

    R = Q_row^T G Q_col                                                      in the eigenbases of the two sides
    M <- .9 M + .1 R,   N = .9 M + .1 R                                      Nesterov's momentum
    V <- .95 V + .05 R^2                                                     second moments
    D = Q_row [ N / (1 - .9^(t+1)) / sqrt(V / (1 - .95^t)) ] Q_col^T

Averages live in the eigenbases and turn with them: ``M <- P^T M``, and ``V <- (P o P)^T V``, which is exact where
coordinates are uncorrelated, as they are in an eigenbasis.
A convolution has its taps among the columns, or as a third side. A parameter that is stepped entry by entry has no
bases and takes Adam's direction, ``(M / (1 - .9^t)) / sqrt(V / (1 - .95^t))``. Both point uphill, like the gradient.

Sources: Vyas et al. 2024, "SOAP", arXiv:2409.11321; Kingma & Ba 2015, "Adam", arXiv:1412.6980, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.eigenbasis import (
    blocks,
    first_basis,
    gram,
    is_turn,
    neuron_order,
    next_turn,
    rotate,
    rotate_back,
    split,
    tie_break,
    turn,
)
from ngopt.optim.rule.plan import ParamPlan, Side

ParamState = dict[str, Tensor]
EPS = 3e-6  # beside roots of averages in units of the gradient: above what rounding leaves where there is no gradient
OF_SIDES = ("_factor", "_basis", "_order")  # how entries of a state end that are of a side, and stacked by groups
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
        * ``guard``: of the network and of the parameter's inputs, found in the first step, ``[]``; see
          `ngopt.optim.rule.guard` and `ngopt.optim.rule.inputs`;
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
    averaged = plan.padded if plan.sides else weight.shape
    state["momentum"], state["second_moment"] = weight.new_zeros(averaged), weight.new_zeros(averaged)
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


def next_unit(
    size: Tensor, unit: Tensor, count: int, config: UpdateConfig
) -> tuple[Tensor, Tensor, Tensor | float]:  # of like shape
    """The unit after one more gradient; a gradient of zeros says nothing about it.

    Args:
        size: Root mean square of the gradient.
        unit: The unit so far; zero before the first gradient that is not.
        count: Number of this step of the parameter, from 1.
        config: Settings.

    Returns:
        What to divide the gradient by; the new unit; what carries averages over to it, ``old / new``: the number one
        where the unit stays.
    """
    floor, every = LEAST_UNIT, config.bases_every
    if count > every and count % every:
        new, carry = torch.where(unit > 0, unit, size), 1.0
    else:
        decay = config.second_moment ** (1 if count <= every else every)
        seen = torch.minimum(size, config.spike * unit).clamp_min(floor)
        new = torch.exp(decay * torch.log(unit.clamp_min(floor)) + (1.0 - decay) * torch.log(seen))
        new = torch.where(size > 0, torch.where(unit > 0, new, size), unit)
        carry = (unit / new.clamp_min(floor)).clamp_max(decay**-0.5)
    return torch.maximum(new, size / config.spike).clamp_min(floor), new, carry


def accumulate(
    sides: tuple[Side, ...],
    weight: Callable[[], Tensor],
    gradient: Tensor,
    carry: Tensor | float,
    state: ParamState,
    count: int,
    config: UpdateConfig,
) -> tuple[Tensor, ParamState]:
    """The averages after one more gradient, and the gradient in the eigenbases.

    Args:
        sides: Of the plan.
        weight: Gives the value before the step, in the matrix view ``[group, row, col, tap]``. Asked for in few steps.
        gradient: In units; in the matrix view if there are sides.
        carry: What carries averages over to the new unit; a number, or to broadcast against the gradient.
        state: From `init_state` or an earlier step.
        count: Number of this step of the parameter, from 1.
        config: Settings.
    """
    new = first_bases(sides, weight, gradient.detach(), state, config) if count == 1 else {}
    gradient, momentum = into_bases(sides, gradient, {**state, **new}), state["momentum"] * carry
    squares, decay = state["second_moment"] * carry**2, config.second_moment
    for side in sides:
        factor, by = follow(side, weight, gradient.detach(), carry, {**state, **new}, count, config)
        new |= factor
        if by is not None:
            gradient, momentum = turn(gradient, side, by), turn(momentum, side, by)
            squares = turn(squares, side, by.square())
    new["momentum"] = torch.add(config.momentum * momentum, gradient, alpha=1.0 - config.momentum)
    new["second_moment"] = torch.add(decay * squares, gradient.square(), alpha=1.0 - decay)
    return gradient, new


@torch.no_grad()
def first_bases(
    sides: tuple[Side, ...], weight: Callable[[], Tensor], gradient: Tensor, state: ParamState, config: UpdateConfig
) -> ParamState:
    """The bases that the first gradient gives, in the matrix view."""
    found = {}
    for side in sides:
        order = state.get(f"{side.name}_order")
        ties = tie_break(weight(), side, order, config.tie_break)
        found[f"{side.name}_basis"] = first_basis(gram(split(gradient, side, order)), ties)
    return found


@torch.no_grad()
def follow(
    side: Side,
    weight: Callable[[], Tensor],
    gradient: Tensor,
    carry: Tensor | float,
    state: ParamState,
    count: int,
    config: UpdateConfig,
) -> tuple[ParamState, Tensor | None]:
    """Factor of one side after one more gradient, given in the bases; in some steps a new basis, and how it turned."""
    factor, basis = f"{side.name}_factor", f"{side.name}_basis"
    old = state[factor].to(gradient.dtype) if count > 1 else None
    if old is not None and isinstance(carry, Tensor):  # in most steps it is the number one
        old = old * carry**2
    found = gram(blocks(gradient, side), old, config.second_moment)
    kept = found.to(state[factor].dtype)
    if count == 1 or not is_turn(count, side, config.bases_every):
        return {factor: kept}, None
    ties = tie_break(weight(), side, state.get(f"{side.name}_order"), config.tie_break)
    by = next_turn(kept, ties, state[basis], whole=count < config.bases_every)
    found = by.mT @ kept.to(by.dtype) @ by
    below = found.diagonal(dim1=-2, dim2=-1).clamp(max=0.0)  # rounding leaves less than nothing where there was nothing
    found = found - torch.diag_embed(below)
    return {factor: found.to(kept.dtype), basis: state[basis] @ by}, by


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
