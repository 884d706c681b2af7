r"""Sign and scale symmetries: what multiplying a neuron's inputs does to its output, undone on the way out.

A neuron :math:`y = \sigma(w x + b)` that is read by :math:`v y` computes the same with

* :math:`(-w, -b, -v)` if :math:`\sigma` is odd (tanh, sine): kind ``"sign"``;
* :math:`(w, b + \pi / \omega, -v)` if :math:`\sigma(z) = \sin \omega z`: also ``"sign"``, the ``phase`` is
  :math:`\pi / \omega`;
* :math:`(s w, s b, v / s)` with :math:`s > 0` if :math:`\sigma` is a ReLU: kind ``"scale"``.

As with permutations, what looks like such a symmetry is only a candidate; those that do not hold by numbers are left
out. The idea is that of Kalogeropoulos et al., Scale Equivariant Graph Metanetworks, NeurIPS 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.graph.certificate import TOLERANCE, evaluate, random_state, relative_error
from ngopt.graph.elements import GraphElements, ParamBlock
from ngopt.graph.per_graph import per_graph

ODD = ("tanh", "sin")
POSITIVE = ("relu", "leaky_relu")


@dataclass(frozen=True)
class Scaling:
    """A symmetry of each neuron of one group.

    Attributes:
        group: Name of the node group.
        start: First node; ``stop``: one past the last.
        kind: ``"sign"`` or ``"scale"``.
        phase: Shift of the bias that equals a flip of the outgoing weights; None if there is none.
    """

    group: str
    start: int
    stop: int
    kind: str
    phase: float | None = None

    def apply(
        self,
        graph: GraphElements,
        state: Mapping[str, Tensor],
        factor: Tensor,  # [*net, neuron]
        turns: Tensor | None = None,  # [*net, neuron]
    ) -> dict[str, Tensor]:
        """Multiply what comes in by ``factor`` and what goes out by its inverse; shift biases by ``turns`` phases.

        Args:
            graph: The network's graph.
            state: name -> ``[*net, *shape]``; changed parameters are new tensors.
            factor: Of each neuron of the group.
            turns: Whole numbers; None for none.
        """
        lead = factor.shape[:-1]
        ones = factor.new_ones(*lead, graph.num_nodes)
        incoming, outgoing, shift = ones.clone(), ones.clone(), torch.zeros_like(ones)
        incoming[..., self.start : self.stop] = factor
        outgoing[..., self.start : self.stop] = 1 / factor
        if turns is not None and self.phase is not None:
            outgoing[..., self.start : self.stop] *= 1 - 2 * (turns % 2)
            shift[..., self.start : self.stop] = turns.to(shift) * self.phase
        changed = dict(state)
        for place in touched(graph, self, factor.device):
            block = place.block
            if block.name not in state:
                continue
            matrix = block.to_matrix(state[block.name])
            if place.rows is not None:
                if not block.is_edge:
                    matrix = matrix + shift[..., place.rows][..., None, None]
                matrix = matrix * incoming[..., place.rows][..., None, None]
            if place.cols is not None:
                matrix = matrix * outgoing[..., place.cols][..., None, :, None]
            changed[block.name] = block.from_matrix(matrix)
        return changed


@dataclass(frozen=True)
class Touched:
    """A parameter that a scaling changes, with indices on one device.

    Attributes:
        block: The parameter.
        rows: Node of each row, ``[group, row]``, if any is of the scaling's group; ``cols`` likewise.
        own: Rows of the group's neurons, ``[own]``, flat; ``neurons``: which of the group each is.
    """

    block: ParamBlock
    rows: Tensor | None
    cols: Tensor | None
    own: Tensor
    neurons: Tensor


@per_graph
def touched(graph: GraphElements, scaling: Scaling, device: torch.device) -> tuple[Touched, ...]:
    """The parameters that a scaling changes; found once, so that no later look at indices waits for a GPU."""
    found = [_touched(block, scaling, device) for block in graph.blocks]
    return tuple(place for place in found if place.rows is not None or place.cols is not None)


def _touched(block: ParamBlock, scaling: Scaling, device: torch.device) -> Touched:
    def inside(nodes: Tensor) -> Tensor:
        return (nodes >= scaling.start) & (nodes < scaling.stop)

    rows, cols = block.row_nodes, block.col_nodes
    own = inside(rows.flatten()).nonzero().flatten()
    return Touched(
        block,
        rows.to(device) if len(own) else None,
        cols.to(device) if cols is not None and bool(inside(cols).any()) else None,
        own.to(device),
        (rows.flatten()[own] - scaling.start).to(device),
    )


def find_scalings(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], graph: GraphElements, seed: int = 0
) -> tuple[Scaling, ...]:
    """Scalings of a network that hold by numbers, in float64 and on random parameters."""
    state = random_state(module, seed)
    before = evaluate(module, state, args, kwargs)
    generator = torch.Generator().manual_seed(seed)

    def holds(scaling: Scaling) -> bool:
        count = scaling.stop - scaling.start
        signs = 1.0 - 2.0 * torch.randint(0, 2, (count,), generator=generator).double()
        factor = signs if scaling.kind == "sign" else 0.5 + torch.rand(count, generator=generator).double()
        turns = None if scaling.phase is None else torch.randint(-2, 3, (count,), generator=generator).double()
        changed = scaling.apply(graph, state, factor, turns)
        return relative_error(before, evaluate(module, changed, args, kwargs)) < TOLERANCE

    found = []
    for group in graph.groups:
        functions = [name for name in group.activations if "pool" not in name]  # pooling may or may not hold
        if group.frozen or group.kind != "neuron" or len(functions) != 1:
            continue
        kind = "sign" if functions[0] in ODD else "scale" if functions[0] in POSITIVE else None
        if kind is None:
            continue
        plain = Scaling(group.name, group.start, group.stop, kind)
        if not holds(plain):
            continue
        phases = [math.pi / omega for omega in _frequencies(graph)] if functions[0] == "sin" else []
        turning = (Scaling(group.name, group.start, group.stop, kind, phase) for phase in phases)
        found.append(next((scaling for scaling in turning if holds(scaling)), plain))
    return tuple(found)


def _frequencies(graph: GraphElements) -> list[float]:
    """What the program multiplies by, large ones first: odd parts of a frequency hold too, but come after it."""
    factors = [re.fullmatch(r"mul\[([-+.e\d]+)\]", op) for op in graph.program]
    return sorted({1.0, *(abs(float(found[1])) for found in factors if found)} - {0.0}, reverse=True)
