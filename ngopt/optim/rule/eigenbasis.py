"""Eigenbases of gradients, one per side of a matrix: where SOAP runs Adam. Pure functions; bases are constants.

For one side of a gradient, unfolded to ``G [size, rest]``, with tie-breaking weights ``c > 0`` per neuron, and ``R``
the gradient in the bases of all sides, unfolded likewise:

    basis   Q = eigenvectors of  G G^T / mean(diag) + tie_break diag(c)                      (the first time)
    factor  F <- decay F + (1 - decay) R R^T                                                 (the first time: R R^T)
    turn    P = qr(F / mean(diag F) + tie_break Q^T diag(c) Q),   Q <- Q P,   F <- P^T F P   (in some steps)

In the first ten steps ``P`` holds eigenvectors, too. ``F`` is SOAP's average of ``G G^T`` in coordinates of the basis.
There it is nearly diagonal, with entries of all sizes, so that a number type with few digits says as much of small
eigenvalues as of large ones; in coordinates of neurons, rounding the large ones would drown the small. A turn is a step
of orthogonal iteration, which costs far less than an eigendecomposition and follows it. The term with ``c`` decides
where gradients say nothing: with it the basis is unique up to signs, so that it moves with the neurons when these are
permuted. Without it dead neurons or small batches would leave that to rounding.

Source: Vyas et al. 2024, "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv:2409.11321, algorithms 3 and 4.
Factors in their own bases, factors of blocks of neurons, and the tie-breaking term are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ngopt.optim.rule.plan import Side

TINY = 1e-30


def split(
    x: Tensor,  # [batch, row, col, tap]
    side: Side,
    order: Tensor | None,  # [batch, length]
) -> Tensor:  # [batch, block, before, size, after]
    """An axis split into its blocks."""
    batch, before, after = _around(x, side)
    x = x.reshape(batch, before, side.length, after)
    if order is not None:
        x = x.gather(2, order[:, None, :, None].expand_as(x))
    if (padding := side.blocks * side.size - side.length) > 0:
        x = torch.nn.functional.pad(x, (0, 0, 0, padding))
    return x.reshape(batch, before, side.blocks, side.size, after).transpose(1, 2)


def gram(
    parts: Tensor,  # [batch, block, before, size, after]
    added_to: Tensor | None = None,  # [batch, block, size, size]
    keep: float = 1.0,
) -> Tensor:  # [batch, block, size, size]
    """``G G^T`` of each block; or its part ``1 - keep`` of an average, beside ``keep`` times what is there."""
    batch, block, before, size, after = parts.shape
    if after == 1:
        tall = parts.reshape(batch * block, before, size)
        left, right = tall.mT, tall
    else:
        wide = (parts.squeeze(2) if before == 1 else parts.transpose(2, 3)).reshape(batch * block, size, before * after)
        left, right = wide, wide.mT
    if added_to is None:
        found = left @ right
    else:
        found = torch.baddbmm(added_to.flatten(0, 1), left, right, beta=keep, alpha=1.0 - keep)
    return found.view(batch, block, size, size)


def rotate(
    x: Tensor,  # [batch, row, col, tap]
    side: Side,
    basis: Tensor,  # [batch, block, size, size]
    order: Tensor | None = None,  # [batch, length]
) -> Tensor:
    """Coordinates of ``x`` in the basis of one side, along that side's axis, which is padded to whole blocks."""
    if side.blocks == 1:
        return _whole(x, side, basis.squeeze(1).mT)
    parts = _apply(split(x, side, order), basis.mT)
    shape = list(x.shape)
    shape[side.axis] = side.blocks * side.size
    return parts.transpose(1, 2).reshape(shape)


def rotate_back(
    x: Tensor,  # [batch, row, col, tap], the axis padded to whole blocks
    side: Side,
    basis: Tensor,  # [batch, block, size, size]
    order: Tensor | None = None,  # [batch, length]
) -> Tensor:  # [batch, row, col, tap]
    """Inverse of `rotate`."""
    if side.blocks == 1:
        return _whole(x, side, basis.squeeze(1))
    shape = list(x.shape)
    batch, before, after = _around(x, side)
    x = _apply(blocks(x, side), basis).transpose(1, 2).reshape(batch, before, side.blocks * side.size, after)
    x = x[:, :, : side.length]
    if order is not None:
        x = torch.empty_like(x).scatter(2, order[:, None, :, None].expand_as(x), x)
    shape[side.axis] = side.length
    return x.reshape(shape)


def _whole(x: Tensor, side: Side, matrices: Tensor) -> Tensor:  # [batch, size, size]
    """Each matrix applied along a side that is one block: what most sides are, in the fewest operations."""
    batch, before, after = _around(x, side)
    if before == 1:
        found = torch.bmm(matrices, x.reshape(batch, side.size, after))
    elif after == 1:
        found = torch.bmm(x.reshape(batch, before, side.size), matrices.mT)
    else:
        found = matrices.unsqueeze(1) @ x.reshape(batch, before, side.size, after)
    return found.view(x.shape)


def _apply(
    parts: Tensor,  # [batch, block, before, size, after]
    matrices: Tensor,  # [batch, block, size, size]
) -> Tensor:
    """Each block's matrix applied along the axis of its size."""
    batch, block, before, size, after = parts.shape
    long = parts.transpose(2, 3).reshape(batch, block, size, before * after)
    return (matrices @ long).reshape(batch, block, size, before, after).transpose(2, 3)


def blocks(x: Tensor, side: Side) -> Tensor:  # -> [batch, block, before, size, after]
    """A padded axis in its blocks."""
    batch, before, after = _around(x, side)
    return x.reshape(batch, before, side.blocks, side.size, after).transpose(1, 2)


def _around(x: Tensor, side: Side) -> tuple[int, int, int]:
    """Entries along the first axis, between it and the axis of a side, and behind that."""
    return x.shape[0], math.prod(x.shape[1 : side.axis]), math.prod(x.shape[side.axis + 1 :])


def turn(
    x: Tensor,  # [batch, row, col, tap], the axis padded to whole blocks
    side: Side,
    by: Tensor,  # [batch, block, size, size]
) -> Tensor:
    """Coordinates after the basis of one side has turned."""
    if side.blocks == 1:
        return _whole(x, side, by.squeeze(1).mT)
    return _apply(blocks(x, side), by.mT).transpose(1, 2).reshape(x.shape)


def neuron_order(weight: Tensor, side: Side) -> Tensor:  # [batch, row, col, tap] -> [batch, length]
    """Neurons by the size of their weights, which moves with them when they are permuted."""
    others = tuple(axis for axis in (1, 2, 3) if axis != side.axis)
    return weight.detach().square().sum(others).argsort(dim=-1)


def tie_break(weight: Tensor, side: Side, order: Tensor | None, size: float) -> Tensor:  # -> [batch, block, size]
    """``tie_break * c``: ``c`` is one plus a neuron's squared weights, relative to the mean of its block."""
    squares = split(weight.detach(), side, order).square().sum((2, 4))
    return size * (1.0 + squares / squares.mean(-1, keepdim=True).clamp_min(TINY))


def first_basis(factor: Tensor, ties: Tensor) -> Tensor:  # [batch, block, size, size], [batch, block, size]
    """Eigenvectors, those of the largest eigenvalues first."""
    return torch.linalg.eigh(_scaled(factor, ties.dtype) + torch.diag_embed(ties))[1].flip(-1)


def next_turn(factor: Tensor, ties: Tensor, basis: Tensor, *, whole: bool) -> Tensor:
    """How the basis turns, in its own coordinates: to eigenvectors (``whole``), or one orthogonal iteration to them.

    Where the first few gradients leave directions out, an iteration would amplify what rounding makes of these.
    """
    target = _scaled(factor, basis.dtype) + basis.mT @ (ties[..., None] * basis)
    return torch.linalg.eigh(target)[1].flip(-1) if whole else torch.linalg.qr(target)[0]


def is_turn(count: int, side: Side, every: int) -> bool:
    """Whether a basis follows its factor in a parameter's step number ``count``, from 1.

    Early on, while factors change fast, in every second step; later in every so many. Sides of different sizes take
    turns, so that no step has to do all the work.
    """
    if count < every:
        return count % 2 == 0
    return (count + side.size) % every == 0


def _scaled(factor: Tensor, dtype: torch.dtype) -> Tensor:
    factor = factor.to(dtype)
    return factor / factor.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(TINY)[..., None, None]
