"""Editors on `NeuronFlow`: new parameters, of changes that transform like the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import SCALE, size
from ngopt.encoder.codes import BLOCK_CODE, PLACE, TAP_CODE
from ngopt.encoder.flow_reader import FlowBase
from ngopt.encoder.layout import check_params
from ngopt.encoder.network_reader import Params
from ngopt.encoder.neuron_flow import Flow, NeuronFlow
from ngopt.encoder.walk import Walk
from ngopt.graph.neural_graph import NeuralGraph


class FlowEdit(nn.Module):
    r"""A change for every entry of every parameter, in units :math:`s` of the parameter's own scale.

    .. math:: \Delta W_{ijt} = \epsilon\, s \sum_m Y_{im}\, T_{tm}\, X_{jm} / \sqrt{M}

    :math:`Y` is linear in what transforms like the inputs of the neuron written to (:math:`z`, and :math:`g` where it
    does), :math:`X` in what transforms like the inverse of the outputs of the neuron read from (:math:`u`, and its
    output where it does), all brought to about unit size by what no symmetry changes: with one of each it is like a
    gradient, outer products of gradients and activations. Parameters that belong to neurons get a change linear in
    :math:`Y`.

    Args:
        width: Of the embeddings.
        copies: Parameter sets to emit for each network.
        rank: M for each of them.
        scale: Initial :math:`\epsilon`. With zero nothing is changed, exactly.
    """

    def __init__(self, width: int, copies: int = 1, rank: int = 64, scale: float = 0.01) -> None:
        super().__init__()
        self.copies, self.rank = copies, rank
        self.row = nn.Linear(2 * width, copies * rank, bias=False)
        self.col = nn.Linear(4 * width, copies * rank, bias=False)
        self.row_code = nn.Linear(BLOCK_CODE, copies * rank)
        self.col_code = nn.Linear(PLACE, copies * rank, bias=False)
        self.tap = nn.Linear(TAP_CODE, copies * rank, bias=False)
        self.vector = nn.Linear(2 * width, copies * rank, bias=False)
        self.vector_code = nn.Linear(BLOCK_CODE, copies * rank)
        self.vector_tap = nn.Linear(TAP_CODE, copies * rank, bias=False)
        self.scale = nn.Parameter(torch.tensor(scale))

    def ends(self, walk: Walk, flow: Flow) -> tuple[Tensor, Tensor]:  # [*net, node, 2 d], [*net, node, 4 d]
        """What transforms like the inputs of each node, and like the inverse of its outputs."""
        assert flow.out is not None and flow.u is not None and flow.g is not None
        scaling = (walk.kinds == SCALE)[:, None]
        scale = torch.where(scaling, size(flow.z), 1.0)

        def bounded(x: Tensor) -> Tensor:
            n = size(x)
            return x / torch.where(scaling, n, (1 + n.square()).sqrt())

        y = torch.cat([bounded(flow.z), bounded(flow.g)], dim=-1)
        x = torch.cat([bounded(flow.u), bounded(flow.out)], dim=-1)
        return y * scale, x / scale

    def weights(self, walk: Walk, k: int, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Changes of the k-th step's parameter, ``[*net, copy, group, row, col, tap]``, in units."""
        step = walk.steps[k]
        group, row, col, tap = step.block.matrix_shape
        y = self.row(ends[0].index_select(-2, step.rows)) * (1 + self.row_code(step.row_code))
        x = self.col(ends[1].index_select(-2, step.cols)) * (1 + self.col_code(step.col_code))
        y = self._split(y.unflatten(-2, (group, row)))  # [*net, copy, group, row, rank]
        x = x.unflatten(-2, (group, col)).unsqueeze(-2) * (1 + self.tap(step.tap_code))
        x = self._split(x.flatten(-3, -2))  # [*net, copy, group, col * tap, rank]
        return self.scale * self.rank**-0.5 * (y @ x.mT).unflatten(-1, (col, tap))

    def vectors(self, walk: Walk, k: int, ends: tuple[Tensor, Tensor]) -> Tensor:
        """Changes of the k-th parameter that belongs to neurons, ``[*net, copy, row, tap]``, in units."""
        vector = walk.vectors[k]
        y = self.vector(ends[0].index_select(-2, vector.nodes)) * (1 + self.vector_code(vector.code))
        y = y.unsqueeze(-2) * (1 + self.vector_tap(vector.tap_code))  # [*net, row, tap, copy * rank]
        return self.scale * self.rank**-0.5 * y.unflatten(-1, (self.copies, self.rank)).sum(-1).movedim(-1, -3)

    def _split(self, x: Tensor) -> Tensor:  # [*net, a, b, copy * rank] -> [*net, copy, a, b, rank]
        return x.unflatten(-1, (self.copies, self.rank)).movedim(-2, -4)


class FlowEditor(FlowBase):
    r"""Edits networks, in rounds.

    Each round reads the network as the one before left it, and is told what arrived at the outputs in all rounds so
    far, that of the network as it was given among it: learned steps in the space of functions.

    Args:
        graphs: Architectures that normalisation is measured of. All others are edited too.
        width: Of the neurons' embeddings.
        sign: Whether sign, phase and scale symmetries that a graph knows of are kept to.
        copies: Parameter sets to emit per network.
        rounds: How many.
        sink: Hidden width of what decides at the outputs, from all that arrives there, on the gradients that start.
        options: Of `NeuronFlow`: ``bank``.
    """

    def __init__(
        self,
        graphs: Sequence[NeuralGraph],
        width: int = 96,
        sign: bool = True,
        copies: int = 1,
        rounds: int = 1,
        sink: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(graphs, sign)
        if rounds < 1:
            raise ValueError(f"An editor needs at least one round, not {rounds}.")
        self.encoder = nn.ModuleList(
            NeuronFlow(width, back=True, sink=sink, memo=2 * width * k, **options) for k in range(rounds)
        )
        self.readout = nn.ModuleList(FlowEdit(width, copies if k + 1 == rounds else 1) for k in range(rounds))

    def forward(self, graph: NeuralGraph, params: Params) -> dict[str, Tensor]:
        """Edit networks of one architecture, stacked.

        Args:
            graph: Of all of them.
            params: Parameters, and learned buffers if there are any: name -> ``[net, *shape]``.

        Returns:
            New parameters, name -> ``[net, copy, *shape]``.

        Raises:
            GraphMismatchError: A parameter is missing or has another shape.
        """
        check_params(graph, params, lead=1)
        walk, now, memo = self.walk(graph), dict(params), None
        new: dict[str, Tensor] = {}
        for encoder, edit in zip(self.encoder, self.readout, strict=True):
            assert isinstance(edit, FlowEdit)
            flow = encoder(walk, self.units(walk, graph, now), memo)
            new = self._edited(walk, graph, now, edit, flow)
            now |= {name: value[:, 0] for name, value in new.items()}
            memo = flow.arrived
        return new

    def _edited(self, walk: Walk, graph: NeuralGraph, params: Params, edit: FlowEdit, flow: Flow) -> dict[str, Tensor]:
        """New parameters of one round, ``[net, copy, *shape]``."""
        ends, new = edit.ends(walk, flow), {}
        for k, step in enumerate(walk.steps):
            new[step.block.name] = self.changed(graph, step.block, params, edit.weights(walk, k, ends))
        for k, vector in enumerate(walk.vectors):
            if not vector.block.is_buffer:
                change = edit.vectors(walk, k, ends).unflatten(-2, vector.block.matrix_shape[:2]).unsqueeze(-2)
                new[vector.block.name] = self.changed(graph, vector.block, params, change)
        return new
