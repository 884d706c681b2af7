"""Metanetworks on `NeuronFlow`: a vector per network, read off where the network has its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import FREE, PHASE, size
from ngopt.encoder.codes import IDENTITY
from ngopt.encoder.entries import EntryReadout
from ngopt.encoder.layout import check_params, require
from ngopt.encoder.network_reader import NetworkReader, Params
from ngopt.encoder.neuron_flow import Flow, NeuronFlow, Units
from ngopt.encoder.normalise import Normaliser, compressed
from ngopt.encoder.probes import OutputProbes
from ngopt.encoder.walk import Walk, walk_of
from ngopt.graph.neural_graph import NeuralGraph

HEADS = 8  # outputs that are kept apart, at most
GAIN = 1.5  # of messages that neurons without a phase hear, on weights of unit scale and as many as come in


class FlowReadout(nn.Module):
    """One vector per network: what arrives at its outputs, and what its layers are like; then an MLP.

    Args:
        heads: Mixtures of the outputs; as many as there are outputs keep all that arrives. None: outputs are not told
            apart, and only the power that arrives at them is kept.
        width: Of the embeddings.
        outputs: Size of the result.
        hidden: Width of the MLP.
        dropout: Of the MLP.
        extra: Further numbers that the MLP is given.
    """

    def __init__(self, heads: int, width: int, outputs: int, hidden: int, dropout: float, extra: int = 0) -> None:
        super().__init__()
        self.share = None
        if heads:
            self.share = nn.Linear(IDENTITY, heads)
            nn.init.normal_(self.share.weight, std=1.0 if heads > 1 else 0.01)
            nn.init.constant_(self.share.bias, 1.0 if heads == 1 else 0.0)
        sizes = (max(1, heads) * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes])
        self.mlp = nn.Sequential(
            nn.Linear(sum(sizes) + 2 + extra, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, walk: Walk, flow: Flow, *extra: Tensor) -> Tensor:  # -> [*net, outputs]
        """Read a stack of networks; ``extra`` ``[*net, number]`` is given to the MLP as it is."""
        arrived = flow.z.index_select(-2, walk.outputs)
        if self.share is None:
            arrived = arrived.square().sum(-2) / max(1, len(walk.outputs))
        else:
            share = self.share(walk.identity[walk.outputs]) * max(1, len(walk.outputs)) ** -0.5  # [output, head]
            arrived = (share.mT @ arrived).flatten(-2)
        parts = (arrived, flow.pooled)
        normed = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        return self.mlp(torch.cat([*normed, *(size(part).log() for part in parts), *extra], dim=-1))


class FlowBase(NetworkReader):
    """What readers and editors have in common: the walk, and stacks of networks as `NeuronFlow` takes them.

    Args:
        graphs: Architectures that normalisation is measured of. All others are read too.
        sign: Whether sign, phase and scale symmetries that a graph knows of are kept to.
    """

    def __init__(self, graphs: Sequence[NeuralGraph], sign: bool) -> None:
        super().__init__(Normaliser(graphs))
        self.sign = sign

    def walk(self, graph: NeuralGraph) -> Walk:
        """The walk through a graph, where the weights are."""
        example = next(self.parameters())
        return walk_of(graph, example.device, example.dtype, self.sign)

    def units(self, walk: Walk, graph: NeuralGraph, params: Params) -> Units:
        """Raw weights, with factors; biases and norms at unit scale, but phases in radians."""
        like = walk.codes
        weights, scales, gains, vectors = [], [], [], []
        for step in walk.steps:
            weights.append(step.block.to_matrix(require(params, step.block)).to(like))
            scales.append(1 / self.normaliser.scale(graph, step.block))
            unit = GAIN * step.block.fan_in**-0.5 * scales[-1]
            turning = walk.kinds[step.rows] == PHASE
            gains.append(torch.where(turning, walk.omega[step.rows], unit).to(like))
        count = len(weights[0]) if weights else len(next(iter(params.values())))
        phase = like.new_zeros(count, len(walk.kinds))
        for vector in walk.vectors:
            raw = vector.block.to_matrix(require(params, vector.block)).to(like)
            raw = raw.flatten(-4, -2)  # [net, row, tap]
            if vector.kinds <= {FREE}:
                vectors.append(compressed(self.normaliser(graph, vector.block, raw)))
                continue
            kinds = walk.kinds[vector.nodes]
            turning = kinds == PHASE
            radians = torch.where(turning, walk.omega[vector.nodes], 0.0) * raw.sum(-1)
            phase = phase.index_add(-1, vector.nodes, radians)
            vectors.append(torch.where(turning[:, None], 0.0, raw / self.normaliser.scale(graph, vector.block)))
        return Units(weights, scales, gains, vectors, phase)


class FlowReader(FlowBase):
    """Reads networks: a vector each.

    Args:
        graphs: Architectures that normalisation is measured of. All others are read too.
        outputs: Size of the vector.
        width: Of the neurons' embeddings.
        hidden: Width of the MLP that makes the vector.
        dropout: Of that MLP.
        sign: Whether sign, phase and scale symmetries that a graph knows of are kept to.
        probes: What the networks put out for learned inputs is given to that MLP too.
        statistics: Whether what the entries of parameters are like is read as well, see `ngopt.encoder.entries`.
        apart: Whether outputs are told apart. What arrives at each tells one function from another, and a reader of few
            networks learns these by heart; what layers are like holds for networks that see other data as well.
        options: Of `NeuronFlow`: ``bank``, ``back``.
    """

    def __init__(
        self,
        graphs: Sequence[NeuralGraph],
        outputs: int = 10,
        width: int = 96,
        hidden: int = 256,
        dropout: float = 0.0,
        sign: bool = True,
        probes: OutputProbes | None = None,
        statistics: bool = False,
        apart: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(graphs, sign)
        self.probes = probes
        self.encoder = NeuronFlow(width, **options)
        self.entries = EntryReadout(width) if statistics else None
        extra = 0 if probes is None else probes.size
        ends = [len(walk_of(graph, "cpu", torch.float32).outputs) for graph in graphs]
        heads = min(HEADS, max([1, *ends])) if apart else 0
        self.readout = FlowReadout(heads, width, outputs, hidden, dropout, extra)

    def forward(self, graph: NeuralGraph, params: Params) -> Tensor:  # -> [net, output]
        """Read networks of one architecture, stacked.

        Args:
            graph: Of all of them.
            params: Parameters, and learned buffers if there are any: name -> ``[net, *shape]``.

        Raises:
            GraphMismatchError: A parameter is missing or has another shape.
        """
        check_params(graph, params, lead=1)
        walk = self.walk(graph)
        units = self.units(walk, graph, params)
        flow = self.encoder(walk, units)
        if self.entries is not None:
            flow = replace(flow, pooled=flow.pooled + self.entries(walk, units))
        return self.readout(walk, flow, *(() if self.probes is None else (self.probes(params),)))
