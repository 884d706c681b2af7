"""The untrained rule, written out: normalised Muon for matrices, Adam-like steps for all else.

Slow, literal, and independent of the rest of `ngopt.optim`: no graph, no gates, no encoder, one tensor at a time. The
tests hold `ngopt.optim.update.update` bit-equal to it in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Newton-Schulz coefficients for 3 rounds; see ngopt.optim.orthogonal.
ROUNDS = ((6.7732, -17.3298, 11.6459), (3.8648, -3.2195, 0.7044), (2.9994, -2.2059, 0.4633))


def schedule(step: int, total_steps: int | None, warmup: int = 20) -> float:
    """``min(1, (t + 1) / warmup) * max(0, 1 - t / T)``."""
    rise = min(1.0, (step + 1) / warmup)
    return rise if total_steps is None else rise * max(0.0, 1.0 - step / total_steps)


def polar(matrix: Tensor) -> Tensor:  # [row, col]
    """``U V^T`` of ``U S V^T`` by three rounds of Newton-Schulz."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix[None] / torch.linalg.vector_norm(matrix).clamp_min(1e-18)
    for k, (a, b, c) in enumerate(ROUNDS):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        square = torch.bmm(gram, gram)
        if k == 0:  # divide x by the fourth root of the norm of its gram matrix squared
            inverse = torch.linalg.vector_norm(square).clamp_min(1e-12).rsqrt().sqrt()
            x, gram, square = x * inverse, gram * inverse.square(), square * inverse.square().square()
        terms = torch.add(gram, square, alpha=c / b)
        x = torch.baddbmm(x, x, terms, beta=a, alpha=b) if tall else torch.baddbmm(x, terms, x, beta=a, alpha=b)
    return x[0]


def matrix_step(
    weight: Tensor,  # [row, col]
    gradient: Tensor,
    momentum: Tensor,
    *,
    step: int,
    lr: float,
    total_steps: int | None,
    is_output: bool = False,
    weight_decay: float = 0.0,
    decay: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Normalised Muon: what to add to a matrix, and the new momentum."""
    momentum = decay * momentum + (1.0 - decay) * gradient
    nesterov = (1.0 - decay) * gradient + (1.0 - (1.0 - decay)) * momentum
    row, col = weight.shape
    direction = polar(nesterov) * max(row, col) ** 0.5
    direction = direction / torch.sqrt(direction.square().mean() + 1e-24).clamp_min(0.5)
    scale = (0.5 if is_output else 1.0) / math.sqrt(col)
    rate = -lr * schedule(step, total_steps)
    return rate * (scale * direction + weight_decay * weight), momentum


def vector_step(
    weight: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    second_moment: Tensor,
    *,
    step: int,
    lr: float,
    total_steps: int | None,
    weight_decay: float = 0.0,
    decay: float = 0.9,
    square_decay: float = 0.99,
) -> tuple[Tensor, Tensor, Tensor]:
    """An Adam-like step: what to add to a vector, and the new moments."""
    momentum = decay * momentum + (1.0 - decay) * gradient
    second_moment = square_decay * second_moment + (1.0 - square_decay) * gradient.square()
    mean = momentum / (1.0 - decay ** (step + 1))
    direction = mean / torch.sqrt(second_moment / (1.0 - square_decay ** (step + 1)) + 1e-24)
    direction = direction / torch.sqrt(direction.square().mean() + 1e-24).clamp_min(0.2)
    rate = -lr * schedule(step, total_steps)
    return rate * (0.08 * direction + weight_decay * weight), momentum, second_moment
