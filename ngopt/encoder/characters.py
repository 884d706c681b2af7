r"""How neurons answer to their own symmetries, and functions of neurons that answer alike.

A symmetry of a neuron :math:`y = \sigma(w x + b)` multiplies what comes in by one number and what goes out by another
(`ngopt.graph.scaling`). What an encoder computes from the weights as the network computes its activations transforms
like these, and what it computes as gradients flow like gradients, if it uses only functions that answer to the symmetry
as the neuron's own function and its derivative do. That is exact and smooth, and needs no canonical form. With
:math:`z` linear in a neuron's incoming weights (several numbers), and :math:`b` its bias in radians:

==========  =====================================  ================================================================
character   symmetry                               :math:`f`, in pairs
==========  =====================================  ================================================================
``FREE``    none                                   :math:`\text{SiLU}(z),\ \sin z`
``SIGN``    :math:`f(-z) = -f(z)`                  :math:`\tanh z,\ \sin z`
``PHASE``   and :math:`f(z, b + \pi) = -f(z, b)`   :math:`\sin b \cos z,\ \cos b \sin z`, the parts of
                                                   :math:`\sin(z + b)`
``SCALE``   :math:`f(s z) = s f(z)` for s > 0      :math:`n\,\text{SiLU}(z / n),\ n \sin(z / n)` with :math:`n = |z|`
==========  =====================================  ================================================================

`gates` are about their derivatives: they answer to a phase like the pair, and to nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import silu

from ngopt.graph.neural_graph import NeuralGraph

FREE, SIGN, PHASE, SCALE = range(4)
TINY = 1e-30  # under the root of a norm
LARGE = 4.0  # size from which on features that may be compressed grow as a logarithm


def characters(graph: NeuralGraph) -> tuple[Tensor, Tensor]:  # [node], twice
    """Character of each node, and the angular frequency of those with a phase (one for all others)."""
    kinds = torch.full((graph.num_nodes,), FREE)
    omega = torch.ones(graph.num_nodes, dtype=torch.float64)
    for scaling in graph.scalings:
        nodes = slice(scaling.start, scaling.stop)
        kinds[nodes] = SCALE if scaling.kind == "scale" else SIGN if scaling.phase is None else PHASE
        if scaling.phase is not None:
            omega[nodes] = math.pi / scaling.phase
    return kinds, omega


def size(z: Tensor) -> Tensor:  # [..., d] -> [..., 1]
    """Root mean square, with a gradient of zero at zero."""
    return z.square().mean(-1, keepdim=True).clamp_min(TINY).sqrt()


def pair(kind: int, z: Tensor, phase: Tensor) -> Tensor:  # [..., d], [..., 1] -> [..., 2 * d]
    """What neurons of one character put out; see the module docstring."""
    if kind == PHASE:
        return torch.cat([phase.sin() * z.cos(), phase.cos() * z.sin()], dim=-1)
    n = size(z)
    if kind == SCALE:
        z = z / n
        return torch.cat([n * silu(z), n * z.sin()], dim=-1)
    z = _compressed(z, n)
    return torch.cat([z.tanh() if kind == SIGN else silu(z), z.sin()], dim=-1)


def gates(kind: int, z: Tensor, phase: Tensor) -> Tensor:  # [..., d], [..., 1] -> [..., 2 * d]
    """What gradients at the outputs of neurons are multiplied by."""
    if kind == PHASE:
        return torch.cat([-phase.sin() * z.sin(), phase.cos() * z.cos()], dim=-1)
    n = size(z)
    z = z / n if kind == SCALE else _compressed(z, n)
    return torch.cat([1 - z.tanh().square() if kind == SIGN else z.sigmoid(), z.cos()], dim=-1)


def invariant(kind: int, features: Tensor) -> Tensor:
    """Of a pair, what no symmetry of the neuron changes."""
    if kind == FREE:
        return features
    return features / size(features) if kind == SCALE else features.square()


def _compressed(z: Tensor, n: Tensor) -> Tensor:
    """The same direction, and of large sizes the logarithm: networks that all but diverged are among those read."""
    return z * ((n / LARGE).asinh() * LARGE / n)
