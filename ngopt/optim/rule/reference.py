"""The untrained rule, written out: SOAP for matrices, Adam for all else, with step sizes that need no tuning.

Slow, literal, and independent of the rest of `ngopt.optim`: no graph, no controls, no encoder, one tensor at a time.
The tests hold `ngopt.optim.update.update` equal to it in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


def schedule(step: int, total_steps: int | None, warmup: int = 20) -> float:
    """``min(1, (t + 1) / warmup) * max(0, 1 - t / T)^p`` with ``p = sqrt(T / 1000)``, but from 1 to 2."""
    rise = min(1.0, (step + 1) / warmup)
    if total_steps is None:
        return rise
    return rise * max(0.0, 1.0 - step / total_steps) ** min(2.0, max(1.0, math.sqrt(total_steps / 1000)))


def guard(matrices: list[Tensor]) -> float:  # each [row, col]
    """One factor for a whole network, from the size of its initial weights."""
    sizes = sorted(float(w.square().mean().sqrt()) * math.sqrt(w.shape[1]) for w in matrices)
    sizes = [size for size in sizes if size > 1e-3]
    return min(1.0, max(1 / 8, math.sqrt(3) * sizes[(len(sizes) - 1) // 2])) if sizes else 1.0


@dataclass
class Unit:
    """The usual root mean square of a tensor's gradient, which averages are in units of."""

    value: float = 0.0

    def see(self, gradient: Tensor, t: int) -> tuple[Tensor, float]:
        """The gradient in the new unit, and what carries averages over to it."""
        old, size, carry = self.value, float(gradient.square().mean().sqrt()), 1.0
        if t <= 10 or t % 10 == 0:
            decay = 0.95 if t <= 10 else 0.95**10
            self.value = size if old == 0 else old**decay * min(size, 10 * old) ** (1 - decay)
            carry = min(old / self.value, decay**-0.5)
        return gradient / max(self.value, size / 10), carry


@dataclass
class Basis:
    """The eigenbasis of one side of a matrix ``[size, other side]``."""

    factor: Tensor
    vectors: Tensor

    def follow(self, g: Tensor, weight: Tensor, carry: float, t: int) -> Tensor:
        """After one more gradient; returns how the basis turned, in its own coordinates."""
        before = self.vectors
        self.factor = g @ g.T if t == 1 else 0.95 * carry**2 * self.factor + 0.05 * g @ g.T
        squares = weight.square().sum(1)
        ties = 1e-5 * (1 + squares / squares.mean())
        target = self.factor / self.factor.diagonal().mean() + torch.diag(ties)
        if t == 1 or (t < 10 and t % 2 == 0):
            self.vectors = torch.linalg.eigh(target)[1].flip(-1)
        elif t >= 10 and (t + len(target)) % 10 == 0:
            self.vectors = torch.linalg.qr(target @ self.vectors)[0]
        return before.T @ self.vectors


@dataclass
class Matrix:
    """Averages of one matrix ``[row, col]``, and its step; of a convolution, with taps among the columns."""

    m: Tensor
    v: Tensor
    left: Basis
    right: Basis
    unit: Unit = field(default_factory=Unit)
    count: int = 0

    @classmethod
    def like(cls, weight: Tensor) -> Matrix:
        """Before the first step."""
        row, col = (torch.zeros(size, size, dtype=weight.dtype) for size in weight.shape)
        zeros = torch.zeros_like(weight)
        return cls(zeros, zeros, Basis(row, row), Basis(col, col))

    def step(
        self,
        weight: Tensor,
        gradient: Tensor,
        *,
        lr: float,
        total_steps: int,
        guard: float,
        weight_decay: float,
        taps: int = 1,
        depth: int = 1,
        flattened: bool = False,
    ) -> Tensor:
        """What to add to the matrix, one of ``depth`` in its network."""
        self.count += 1
        t = self.count
        g, carry = self.unit.see(gradient, t)
        left_turn = self.left.follow(g, weight, carry, t)
        right_turn = self.right.follow(g.T, weight.T, carry, t)
        self.v = left_turn.square().T @ self.v @ right_turn.square()
        left, right = self.left.vectors, self.right.vectors
        self.m = 0.9 * carry * self.m + 0.1 * g
        self.v = 0.95 * carry**2 * self.v + 0.05 * (left.T @ g @ right).square()
        nesterov = left.T @ (0.9 * self.m + 0.1 * g) @ right / (1 - 0.9 ** (t + 1))
        direction = left @ (nesterov / torch.sqrt(self.v / (1 - 0.95**t) + 9e-12)) @ right.T
        rate = -lr * 0.08 * schedule(t - 1, total_steps)
        most = min(5.0, taps ** (0.25 if flattened else 0.5))
        larger = 1.0 + (min(most, max(1.0, most * 4 / depth)) - 1.0) * max(0.0, 1.0 - (t - 1) / total_steps)
        return rate * (guard * larger / math.sqrt(weight.shape[1]) * direction + weight_decay * weight)


@dataclass
class Vector:
    """Averages of one vector, and its step."""

    m: Tensor
    v: Tensor
    unit: Unit = field(default_factory=Unit)
    count: int = 0

    @classmethod
    def like(cls, weight: Tensor) -> Vector:
        """Before the first step."""
        return cls(torch.zeros_like(weight), torch.zeros_like(weight))

    def step(
        self, weight: Tensor, gradient: Tensor, *, lr: float, total_steps: int, guard: float, weight_decay: float
    ) -> Tensor:
        """What to add to the vector."""
        self.count += 1
        t = self.count
        g, carry = self.unit.see(gradient, t)
        self.m = 0.9 * carry * self.m + 0.1 * g
        self.v = 0.95 * carry**2 * self.v + 0.05 * g.square()
        direction = self.m / (1 - 0.9**t) / torch.sqrt(self.v / (1 - 0.95**t) + 9e-12)
        rate = -lr * 0.08 * schedule(t - 1, total_steps)
        return rate * (guard * 0.16 * direction + weight_decay * weight)
