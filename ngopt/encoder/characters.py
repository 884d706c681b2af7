r"""How neurons answer to their own symmetries, and functions of neurons that answer alike.

A symmetry of a neuron :math:`y = \sigma(w x + b)` multiplies its input by a number and its output by another. What is
computed from the weights as a network computes transforms like that too, so an encoder that uses only functions
:math:`f` with the neuron's own symmetry is equivariant, exactly and smoothly, without a canonical form. With
:math:`z` linear in a neuron's weights (several numbers), and :math:`b` its bias in units of phase:

==========  ==================================  =====================================================================
character   symmetry                            :math:`f`, a pair of features
==========  ==================================  =====================================================================
``free``    none                                :math:`\text{SiLU}(z),\ \sin z`
``sign``    :math:`f(-z) = -f(z)`               :math:`\tanh z,\ \sin z`
``phase``   and :math:`f(z, b + \pi) = -f(z,b)`  :math:`\sin b \cos z,\ \cos b \sin z`: parts of :math:`\sin(z + b)`
``scale``   :math:`f(s z) = s f(z),\ s > 0`     :math:`n\,\text{SiLU}(z / n),\ n \sin(z / n)`, :math:`n` the norm of z
==========  ==================================  =====================================================================

That even and odd parts make a smooth sign and phase symmetry, and quotients one of scale, is what sets this apart from
`ngopt.encoder.canonical`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import silu

from ngopt.graph.neural_graph import NeuralGraph

FREE, SIGN, PHASE, SCALE = range(4)
TINY = 1e-30  # under the root of a norm
LIMIT = 8.0  # size from which on free and odd features stop growing


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


def pair(kind: int, z: Tensor, phase: Tensor) -> Tensor:  # [..., d], [..., 1] -> [..., 2 d]
    """Features of neurons of one character; see the module docstring."""
    if kind == PHASE:
        return torch.cat([phase.sin() * z.cos(), phase.cos() * z.sin()], dim=-1)
    n = size(z)
    if kind == SCALE:
        z = z / n
        return torch.cat([n * silu(z), n * z.sin()], dim=-1)
    z = z * torch.rsqrt(1 + (n / LIMIT).square())
    return torch.cat([z.tanh() if kind == SIGN else silu(z), z.sin()], dim=-1)
