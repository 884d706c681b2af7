r"""Persistent evolution strategies: an unbiased gradient of whole runs from truncated pieces, without backpropagation.

Antithetic pairs of optimizees run with :math:`\theta \pm \epsilon`, keep their own weights from piece to piece, and
remember the sum of all their perturbations since the run began:

.. math::

    \xi_i \leftarrow \xi_i + \epsilon_i, \qquad
    g = \frac{1}{2 P \sigma^2} \sum_{i=1}^{P} \xi_i \, (L_i^+ - L_i^-), \qquad \epsilon_i \sim N(0, \sigma^2)

:math:`L` is the sum over a piece's steps, divided by the steps of a whole piece: those of a short last piece weigh as
much as all others. Both of a pair start from the same weights and see the same batches. A perturbation is a function of
its seed, so that processes which share the work exchange losses alone. With an objective that weighs the end of the
run, this is the "loss at the end" variant.

Source: Vicol, Metz & Sohl-Dickstein 2021, "Unbiased gradient estimation in unrolled computation graphs with
persistent evolution strategies", arXiv:2112.13835.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meta_train.seeds import generator


def perturbations(
    seed: int,
    pairs: int,
    sigma: float,
    mask: Tensor,  # [dim]
) -> Tensor:  # [pair, dim]
    """What is added to the meta-parameters of the first of each pair, and subtracted for the second."""
    drawn = torch.randn(pairs, len(mask), generator=generator("perturbation", seed)).to(mask)
    return sigma * drawn * mask


def particles(theta: Tensor, perturbation: Tensor) -> Tensor:  # [dim], [pair, dim] -> [2 * pair, dim]
    """Meta-parameters of all particles: first those with plus, then those with minus."""
    return torch.cat([theta + perturbation, theta - perturbation])


def pes_gradient(
    accumulated: Tensor,  # [pair, dim]
    meta_losses: Tensor,  # [2 * pair]
    sigma: float,
) -> tuple[Tensor, int]:  # [dim]
    """The gradient, and how many pairs were dropped because a loss of theirs is not finite."""
    plus, minus = meta_losses.to(accumulated).chunk(2)
    difference = plus - minus
    finite = torch.isfinite(difference)
    weight = torch.where(finite, difference, 0.0) / (2 * sigma**2 * max(1, int(finite.sum())))
    return weight @ accumulated, int((~finite).sum())
