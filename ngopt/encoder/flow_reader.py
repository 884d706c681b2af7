"""A metanetwork on `NeuronFlow`: one vector per network, read off where the network itself has its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ngopt.encoder.characters import FREE, PHASE, size
from ngopt.encoder.codes import IDENTITY
from ngopt.encoder.layout import check_params, dense_layout, edge_blocks, require, vector_blocks
from ngopt.encoder.neuron_flow import GAIN, NeuronFlow
from ngopt.encoder.normalise import Normaliser
from ngopt.graph.neural_graph import NeuralGraph

Params = Mapping[str, Tensor]  # name -> [net, *shape]
HEADS = 8  # most outputs that are kept apart


class FlowReader(nn.Module):
    """Reads networks: one vector each.

    Args:
        graphs: Architectures that normalisation is measured of.
        outputs: Size of the vector.
        width: Of the neurons' embeddings.
        hidden: Of the MLP that reads what arrives at the outputs.
        dropout: Of that MLP.
        sign: Whether sign, phase and scale symmetries that the graph knows of are kept to.
    """

    def __init__(
        self,
        graphs: Sequence[NeuralGraph],
        outputs: int = 10,
        width: int = 128,
        hidden: int = 256,
        dropout: float = 0.1,
        sign: bool = True,
    ) -> None:
        super().__init__()
        self.sign = sign
        self.encoder = NeuronFlow(width)
        self.normaliser = Normaliser(graphs)
        ends = [len(dense_layout(graph).outputs) for graph in graphs]
        self.heads = min(HEADS, max(ends, default=1))
        self.share = nn.Linear(IDENTITY, self.heads)
        nn.init.normal_(self.share.weight, std=IDENTITY**-0.5 if self.heads > 1 else 0.01)
        nn.init.constant_(self.share.bias, 1.0 if self.heads == 1 else 0.0)
        self.norm = nn.LayerNorm(self.heads * width)
        self.readout = nn.Sequential(
            nn.Linear(self.heads * width + 1, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def fit_statistics(self, graph: NeuralGraph, params: Params) -> None:
        """Take normalisation from training networks of one architecture."""
        self.normaliser.fit(graph, params)

    def forward(self, graph: NeuralGraph, params: Params) -> Tensor:  # [net, output]
        """Read networks of one architecture, ``params``: name -> ``[net, *shape]``."""
        check_params(graph, params, lead=1)
        dtype, device = self.encoder.mix.dtype, self.encoder.mix.device
        layout = dense_layout(graph, device, dtype)
        if not self.sign:
            layout = replace(layout, kinds=torch.full_like(layout.kinds, FREE), omega=torch.ones_like(layout.omega))
        count = len(next(iter(params.values())))
        values, gains, vectors = [], [], []
        phase = torch.zeros(count, graph.num_nodes, dtype=dtype, device=device)
        for block, relation in zip(edge_blocks(graph), layout.relations, strict=True):
            values.append(block.to_matrix(require(params, block)))
            unit = GAIN * block.fan_in**-0.5 / self.normaliser.scale(graph, block)
            turning = layout.kinds[relation.row_nodes] == PHASE
            gains.append(torch.where(turning, layout.omega[relation.row_nodes], torch.as_tensor(unit).to(phase)))
        for block, (nodes, _) in zip(vector_blocks(graph), layout.vectors, strict=True):
            raw = block.to_matrix(require(params, block)).flatten(-4, -3).mean((-2, -1))
            kinds = layout.kinds[nodes]
            turning = kinds == PHASE
            phase = phase.index_add(-1, nodes, torch.where(turning, layout.omega[nodes], 0.0) * raw)
            free = bool((kinds == FREE).all())
            scaled = self.normaliser(graph, block, raw) if free else raw / self.normaliser.scale(graph, block)
            vectors.append(torch.where(turning, 0.0, scaled))
        z = self.encoder.encode(layout, values, gains, vectors, phase, (count,))
        ends = layout.outputs
        share = self.share(layout.identity[ends]) * len(ends) ** -0.5  # [end, head]
        arrived = (share.mT @ z.index_select(-2, ends)).flatten(-2)
        return self.readout(torch.cat([self.norm(arrived), size(arrived).log()], dim=-1))
