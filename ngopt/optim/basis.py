"""The hand-made directions that a step is mixed from, and the accumulators behind them. Pure and differentiable.

Every direction points uphill, like the gradient; the step goes against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ngopt.optim.config import UpdateConfig
from ngopt.optim.orthogonal import orthogonalise
from ngopt.optim.plan import ParamPlan

# The first direction leads, with gate one before anything is learned; the others are mixed in by learned gates.
MATRIX_BASIS = ("orthogonal momentum", "factored Adam", "gradient")
ELEMENTWISE_BASIS = ("Adam", "momentum", "gradient")
BASIS = len(MATRIX_BASIS)
EPS = 1e-12  # squared inside every square root: derivatives stay finite in float32, and the scale of the loss drops out
MATRIX_FLOOR = 0.5
ELEMENTWISE_FLOOR = 0.2


def rms(x: Tensor) -> Tensor:  # -> []
    """Root mean square of all entries."""
    return torch.sqrt(x.square().mean() + EPS**2)


def ema(old: Tensor, new: Tensor, decay: float) -> Tensor:
    """Exponential moving average, ``decay * old + (1 - decay) * new``."""
    return decay * old + (1.0 - decay) * new


def adam_direction(momentum: Tensor, second_moment: Tensor, step: Tensor, config: UpdateConfig) -> Tensor:
    """Momentum over the root of the second moment, both freed of their bias toward the zeros that they start from.

    Source: Kingma & Ba 2015, "Adam", arXiv:1412.6980, algorithm 1. Here ``step`` is one in the first step.
    """
    mean = momentum / (1.0 - config.momentum**step)
    square = second_moment / (1.0 - config.second_moment**step)
    return mean / torch.sqrt(square + EPS**2)


def factored_adam_direction(
    momentum: Tensor,  # [group, row, col, tap]
    row_square: Tensor,  # [group, row]
    col_square: Tensor,  # [group, col]
) -> Tensor:  # [group, row, col, tap]
    """Momentum over the root of a second moment that is the outer product of its row and column means.

    Two vectors of state in place of a matrix. The scale is left open: directions are normalised later.

    Source: Shazeer & Stern 2018, "Adafactor", arXiv:1804.04235, section 3.
    """
    row, col = torch.rsqrt(row_square + EPS**2), torch.rsqrt(col_square + EPS**2)
    return momentum * row[:, :, None, None] * col[:, None, :, None]


def orthogonal_direction(
    momentum: Tensor,  # [group, row, col, tap]
    gradient: Tensor,
    config: UpdateConfig,
) -> Tensor:  # [group, row, col, tap]
    """Polar factor of the Nesterov momentum, per group, with entries of root mean square about one at full rank.

    Source: Jordan et al. 2024, "Muon", https://kellerjordan.github.io/posts/muon.
    """
    group, row, col, tap = momentum.shape
    nesterov = ema(gradient, momentum, 1.0 - config.momentum)
    polar = orthogonalise(nesterov.reshape(group, row, col * tap), config.orthogonal)
    return polar.reshape(momentum.shape) * max(row, col * tap) ** 0.5


def accumulate(
    plan: ParamPlan, gradient: Tensor, state: dict[str, Tensor], config: UpdateConfig
) -> dict[str, Tensor]:  # same keys as state
    """The state after one more gradient.

    Matrices keep a momentum and the mean squares of rows and columns of the gradient; all others a momentum and a
    second moment, as in Adam.
    """
    new = dict(state)
    new["step"] = state["step"] + 1
    new["momentum"] = ema(state["momentum"], gradient, config.momentum)
    if plan.orthogonal:
        square = plan.to_matrix(gradient).square()  # [group, row, col, tap]
        new["row_square"] = ema(state["row_square"], square.mean((2, 3)), config.second_moment)
        new["col_square"] = ema(state["col_square"], square.mean((1, 3)), config.second_moment)
    else:
        new["second_moment"] = ema(state["second_moment"], gradient.square(), config.second_moment)
    return new


def directions(
    plan: ParamPlan,
    gradient: Tensor,
    state: dict[str, Tensor],  # after `accumulate`
    config: UpdateConfig,
) -> tuple[Tensor, ...]:  # BASIS times [group, row, col, tap]
    """All directions of one parameter: the leading one, then the others with a root mean square of one (or zero)."""
    gradient, momentum = plan.to_matrix(gradient), plan.to_matrix(state["momentum"])
    if plan.orthogonal:
        lead = orthogonal_direction(momentum, gradient, config)
        second = factored_adam_direction(momentum, state["row_square"], state["col_square"])
    else:
        lead = adam_direction(momentum, plan.to_matrix(state["second_moment"]), state["step"].to(momentum), config)
        second = momentum
    return lead, second / rms(second), gradient / rms(gradient)


def floor_of(plan: ParamPlan) -> float:
    """Smallest root mean square that a direction is taken to have when it is normalised.

    Without it, a direction that is nearly zero in most entries would be blown up in the rest: an embedding of which a
    batch touches a few rows, or the few singular directions of the gradient of a batch of two.
    """
    return MATRIX_FLOOR if plan.orthogonal else ELEMENTWISE_FLOOR
