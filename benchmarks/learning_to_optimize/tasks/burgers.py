"""A physics-informed network: it solves Burgers' equation, and its loss has second derivatives of its outputs."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED
from meta_train.tasks.mlp import dense

VISCOSITY = 0.05
NODES = 100  # of the quadrature
POINTS = 6_000


def burgers_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:  # [n 2], unused -> []
    r"""Squares of :math:`u_t + u u_x - \nu u_{xx}`, of :math:`u(x, 0) + \sin \pi x` and of :math:`u(\pm 1, t)`.

    The equation is asked for at the points ``(x, t)``; the start at their ``x``, the edges at their ``t``. What the
    solution is there (``y``) makes no difference.
    """
    points = x.detach().requires_grad_()
    u = model(points)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    u_x, u_t = first.unbind(1)
    (second,) = torch.autograd.grad(u_x.sum(), points, create_graph=True)
    equation = u_t + u[:, 0] * u_x - VISCOSITY * second[:, 0]
    zeros, ones = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    start = model(torch.stack((x[:, 0], zeros), 1))[:, 0] + torch.sin(math.pi * x[:, 0])
    edges = model(torch.cat([torch.stack((side * ones, x[:, 1]), 1) for side in (-1, 1)]))
    return equation.square().mean() + start.square().mean() + edges.square().mean()


def solution(x: np.ndarray, t: np.ndarray) -> np.ndarray:  # [n], [n] -> [n]
    r"""Exact, by the Cole-Hopf transformation of :math:`u(x, 0) = -\sin \pi x`, with Gauss-Hermite quadrature.

    :math:`u = -\int \sin(\pi s) f(s) e^{-z^2} dz / \int f(s) e^{-z^2} dz` with :math:`s = x - \sqrt{4 \nu t} z` and
    :math:`f(s) = \exp(-\cos(\pi s) / 2 \pi \nu)`.
    """
    z, weights = np.polynomial.hermite.hermgauss(NODES)
    s = x[:, None] - np.sqrt(4 * VISCOSITY * t)[:, None] * z
    f = weights * np.exp(-np.cos(np.pi * s) / (2 * np.pi * VISCOSITY))
    return -(np.sin(np.pi * s) * f).sum(1) / f.sum(1)


@lru_cache(maxsize=1)
def points() -> Data:
    """Points ``(x, t)`` in [-1, 1] x [0, 1] and the exact solution there; a sixth each for test and validation."""
    generator = np.random.default_rng(SEED)
    x, t = generator.uniform(-1, 1, POINTS), generator.uniform(0, 1, POINTS)
    inputs = torch.from_numpy(np.stack([x, t], 1)).float()
    targets = torch.from_numpy(solution(x, t)).float()[:, None]
    end = POINTS - POINTS // 6
    return Data((inputs[:end], targets[:end]), (inputs[end:], targets[end:]), POINTS // 6)


def network() -> nn.Sequential:
    """2-24-24-24-1 with tanh."""
    return nn.Sequential(*dense([2, 24, 24, 24, 1], "tanh"))


register(
    Task(
        "burgers",
        "unseen",
        "physics-informed MLP 2-24-24-24-1, Burgers' equation",
        "computed",
        network,
        points,
        64,
        objective=nn.functional.mse_loss,
        metric=MSE,
        residual=burgers_loss,
    )
)
