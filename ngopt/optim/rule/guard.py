r"""The guard: one factor on all steps of a network, from the size of its initial weights.

    guard = clamp(sqrt(3) * median over matrices of rms(W_0) * sqrt(fan_in), 1/8, 1)

PyTorch draws weights with ``rms(W_0) sqrt(fan_in) = 1 / sqrt(3)``, so that the guard is one there. Networks that begin
with smaller weights multiply signals elsewhere (a SIREN's sines by 30), and the same step carries them further.
Matrices that begin at zero say nothing. The lower one of two medians counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.direction import ParamState
from ngopt.optim.rule.plan import forms_of

LEAST = 0.125
SILENT = 1e-3  # sizes of at most so much are those of zeros


def guard_of(
    graph: NeuralGraph | None, weights: Mapping[str, Tensor], state: Mapping[str, ParamState], config: UpdateConfig
) -> Tensor:  # -> []
    """The factor, from all matrices that have a state; one without any."""
    shapes = {name: tuple(weights[name].shape) for name in state}
    return guard_from(graph, shapes, {name: own["initial_rms"] for name, own in state.items()}, config)


def guard_from(
    graph: NeuralGraph | None,
    shapes: Mapping[str, tuple[int, ...]],
    initial: Mapping[str, Tensor],
    config: UpdateConfig,
) -> Tensor:  # -> []
    """The factor, from shapes and root mean squares of initial weights."""
    sizes = []
    for name, size in initial.items():
        plan = forms_of(graph, name, shapes[name], config)[0]
        if plan.sides and plan.is_matrix:
            sizes.append(size * math.sqrt(plan.fan_in))
    if not sizes:
        return torch.ones(())
    found = torch.stack([size.to(sizes[0]) for size in sizes])
    median = torch.where(found > SILENT, found, torch.nan).nanmedian()
    return torch.where(median.isnan(), 1.0, math.sqrt(3) * median).clamp(LEAST, 1.0)
