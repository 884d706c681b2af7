"""NG-GNN as published; `ngopt.encoder.published` says of whom, and what it is for. Kept on purpose:

* it normalises over all nodes of the minibatch (`LayerNorm(mode="graph")` without batch indices), so that a result
  depends on the other networks in the batch;
* no residual connections; the degree statistics of PNA leave out the reverse edges;
* the edit head reads biases from the wrong nodes: those of the first layer from the inputs, and so on, so that new
  biases are not equivariant.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ngopt.encoder.published import Plan, Published
from ngopt.encoder.relations import BlockEdges, Relation
from ngopt.graph.neural_graph import NeuralGraph

STD_FLOOR = 1e-5


class PublishedNGGNN(Published):
    """NG-GNN as published; see the module docstring. Arguments as for `Published`, with the published defaults."""

    edge_channels = 3  # the edge, its reverse, their sum

    def __init__(
        self, graph: NeuralGraph, task: str = "classify", outputs: int = 10, width: int | None = None, layers: int = 4,
        dropout: float = 0.2,
    ) -> None:  # fmt: skip
        width = width if width is not None else 32 if task == "classify" else 128
        super().__init__(graph, task, outputs, width, width, 3.0 if task == "classify" else None)
        self._relations, amplify, both = self.connections(self.plan)
        self.register_buffer("amplify", amplify, persistent=False)
        self.register_buffer("degree", both, persistent=False)
        self.convs = nn.ModuleList(_PublishedPNA(width) for _ in range(layers))
        self.edge_updates = nn.ModuleList(_PublishedEdgeUpdate(width) for _ in range(layers - 1))
        self.norms = nn.ModuleList(_MinibatchNorm(width) for _ in range(layers - 1))
        self.dropout = nn.Dropout(dropout)

    @staticmethod
    def connections(plan: Plan) -> tuple[list[BlockEdges], Tensor, Tensor]:  # and [node, 1], twice
        """Relations, what PNA amplifies by, and degrees."""
        degree = torch.zeros(plan.nodes)
        both = torch.zeros(plan.nodes)
        for _, rows, cols in plan.weights:
            degree[rows] += len(cols)
            both[rows] += len(cols)
            both[cols] += len(rows)
        amplify = (both + 1).log() / (degree + 1).log().mean()
        relations = [BlockEdges(rows[None], cols[None]) for _, rows, cols in plan.weights]
        return relations, amplify[:, None], both.clamp_min(1)[:, None]

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """See `ngopt.encoder.metanetwork.Metanetwork.forward`."""
        h = self._nodes(graph, params)
        edges = []
        for kernel in self._kernels(graph, params):
            nothing = torch.zeros_like(kernel)
            for channels in ([kernel, nothing, kernel], [nothing, kernel, kernel]):
                edges.append(self.edge_in(torch.cat(channels, dim=-1))[:, None])  # [net, 1, row, col, width]
        relations = [relation.to(h.device) for relation in self._relations]
        sides = [side for relation in relations for side in (relation, relation.reversed)]
        for k, conv in enumerate(self.convs):
            h = conv(h, edges, sides, self.degree, self.amplify)
            if k < len(self.norms):
                h = self.dropout(nn.functional.silu(self.norms[k](h)))
                edges = [self.edge_updates[k](e, h, side) for e, side in zip(edges, sides, strict=True)]
        if self.task == "classify":
            return self.readout(h[:, self.plan.outputs.to(h.device)].flatten(1))
        edge_out = [self.edge_head(e[:, 0]) for e in edges[::2]]
        return self._change(params, self.node_head(h), edge_out, first=self.plan.inputs)


class _PublishedPNA(nn.Module):
    """FiLM messages; mean, min, max and standard deviation, as they are and amplified by degree."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.message = nn.Linear(2 * width, width)
        self.scale, self.shift = nn.Linear(width, width), nn.Linear(width, width)
        self.post = nn.Linear(9 * width, width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, edges: list[Tensor], sides: list[Relation], degree: Tensor, amplify: Tensor) -> Tensor:
        own, other = self.message.weight.chunk(2, dim=1)
        heads, tails = nn.functional.linear(h, own, self.message.bias), nn.functional.linear(h, other)
        total, square = torch.zeros_like(heads), torch.zeros_like(heads)
        low, high = torch.full_like(heads, torch.inf), torch.full_like(heads, -torch.inf)
        for e, side in zip(edges, sides, strict=True):
            messages = self.scale(e) * (side.heads(heads) + side.tails(tails)) + self.shift(e)
            mean, least, most, mean_square = side.moments(messages)
            size = side.row_sizes.to(mean)
            total = total.index_add(1, side.row_nodes, (mean * size).to(total))
            square = square.index_add(1, side.row_nodes, (mean_square * size).to(total))
            low = torch.minimum(low, torch.full_like(low, torch.inf).index_copy(1, side.row_nodes, least.to(low)))
            high = torch.maximum(high, torch.full_like(high, -torch.inf).index_copy(1, side.row_nodes, most.to(high)))
        mean = total / degree
        std = ((square / degree - mean.square()).clamp_min(0) + STD_FLOOR).sqrt()
        heard = torch.cat([mean, low, high, std], dim=-1)
        return self.out(self.post(torch.cat([h, heard, heard * amplify], dim=-1)))


class _PublishedEdgeUpdate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge, self.source, self.target = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, e: Tensor, h: Tensor, side: Relation) -> Tensor:
        mixed = self.edge(e) + side.tails(self.source(h)) + side.heads(self.target(h))
        return self.out(nn.functional.silu(mixed))


class _MinibatchNorm(nn.Module):
    """Normalises over all nodes and channels of the minibatch together."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width)), eps

    def forward(self, h: Tensor) -> Tensor:
        centred = h - h.mean()
        return centred / (centred.std(unbiased=False) + self.eps) * self.weight + self.bias
