r"""NG-GNN and NG-T as published, faults included, so that what the mended encoders gain can be measured.

Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks, ICLR 2024, and its
code. For networks of one architecture, each layer of which is linear or a convolution. Kept on purpose:

* NG-GNN normalises over all nodes of the minibatch (`LayerNorm(mode="graph")` without batch indices), so that a result
  depends on the other networks in the batch;
* no residual connections; the degree statistics of PNA leave out the reverse edges;
* NG-T attends over all pairs of nodes, whether there is an edge between them or not, and scales by the whole attention
  width instead of a head's;
* NG-GNN's edit head reads biases from the wrong nodes: those of the first layer from the inputs, and so on, so that new
  biases are not equivariant;
* kernels are padded with zeros to the largest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from ngopt.encoder.layout import check_params, edge_blocks, require
from ngopt.encoder.normalise import Normaliser
from ngopt.encoder.relations import BlockEdges, Relation
from ngopt.errors import GraphMismatchError
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock

FREQUENCIES = 128
STD_FLOOR = 1e-5


@dataclass(frozen=True)
class Plan:
    """What the published constructors make of an architecture.

    Attributes:
        nodes: Number of nodes.
        positions: Row of the position table for each node.
        position_rows: Rows of that table: one per input and output node, one per hidden layer.
        inputs: Number of input nodes, which come first.
        outputs: The output nodes.
        weights: Blocks of edges, with the nodes of their rows and columns.
        biases: Blocks, and the nodes that they belong to.
        taps: Entries of the largest kernel.
    """

    nodes: int
    positions: Tensor
    position_rows: int
    inputs: int
    outputs: Tensor
    weights: list[tuple[ParamBlock, Tensor, Tensor]]
    biases: list[tuple[ParamBlock, Tensor]]
    taps: int


def _plan(graph: NeuralGraph) -> Plan:
    graph = graph.to("cpu")
    weights, rows_of = [], {}
    for block in edge_blocks(graph):
        assert block.col_nodes is not None
        if block.matrix_shape[0] != 1 or dict(block.attributes).get("op") not in ("linear", "convolution"):
            raise ValueError(f"the published encoders have no graph for '{block.name}', shape {block.shape}")
        if any(len(nodes.unique()) < nodes.numel() for nodes in (block.row_nodes, block.col_nodes)):
            raise ValueError(
                f"the published encoders have one weight for each pair of neurons, and '{block.name}' has several: "
                "gates of a recurrent layer, or flattened pixels"
            )
        weights.append((block, block.row_nodes.flatten(), block.col_nodes.flatten()))
        rows_of[block.name.rpartition(".")[0]] = block.row_nodes.flatten()
    biases = []
    for block in graph.blocks:
        if block.is_edge or block.role == "unused":
            continue
        module = block.name.rpartition(".")[0]
        if block.role != "bias" or module not in rows_of or len(rows_of[module]) != block.numel:
            raise ValueError(f"the published encoders have no place for '{block.name}', shape {block.shape}")
        biases.append((block, rows_of[module]))
    if graph.buffers or not weights:
        raise ValueError("the published encoders read linear and convolution layers alone, and no buffers")
    written = torch.cat([rows for _, rows, _ in weights]).unique()
    read = torch.cat([cols for _, _, cols in weights]).unique()
    used = torch.cat([written, read]).unique()
    place = torch.full((graph.num_nodes,), -1)
    place[used] = torch.arange(len(used))  # nodes that only a bias of its own stands for fall away
    positions, count = torch.zeros(len(used), dtype=torch.long), 0
    for group in graph.groups:
        mine = place[group.start : group.stop]
        mine = mine[mine >= 0]
        positions[mine] = count + (torch.arange(len(mine)) if group.frozen else 0)
        count += len(mine) if group.frozen else 1
    inputs = int((~torch.isin(used, written)).sum())
    return Plan(
        len(used),
        positions,
        count,
        inputs,
        place[written[~torch.isin(written, read)]],
        [(block, place[rows], place[cols]) for block, rows, cols in weights],
        [(block, place[rows]) for block, rows in biases],
        max(block.matrix_shape[3] for block, _, _ in weights),
    )


class _FourierFeatures(nn.Module):
    """``[..., in] -> [..., 256]``; with ``sigma=None`` nothing is done."""

    matrix: Tensor

    def __init__(self, features: int, sigma: float | None) -> None:
        super().__init__()
        self.out = features if sigma is None else 2 * FREQUENCIES
        self.register_buffer("matrix", None if sigma is None else sigma * torch.randn(features, FREQUENCIES))

    def forward(self, x: Tensor) -> Tensor:
        if self.matrix is None:
            return x
        angles = 2 * torch.pi * x @ self.matrix
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _project(features: int, width: int, sigma: float | None) -> nn.Sequential:
    fourier = _FourierFeatures(features, sigma)
    return nn.Sequential(fourier, nn.Linear(fourier.out, width), nn.Linear(width, width))


class Published(nn.Module):
    """What both published models share: input embedding, readout and edit heads.

    Args:
        graph: The architecture.
        task: ``"classify"`` or ``"edit"``.
        outputs: Classes.
        width: Of nodes.
        edge_width: Of edges.
        sigma: Of the Fourier features; None for the plain value.
    """

    def __init__(
        self, graph: NeuralGraph, task: str, outputs: int, width: int, edge_width: int, sigma: float | None
    ) -> None:
        super().__init__()
        self.plan, self.task, self.width = self.plan_of(graph), task, width
        self.architecture = graph.fingerprint()
        self.normaliser = Normaliser([graph])
        self.position = nn.Embedding(self.plan.position_rows, width)
        self.node_in = _project(1, width, sigma)
        self.edge_in = _project(self.edge_channels * self.plan.taps, edge_width, sigma)
        if task == "classify":
            sizes = (len(self.plan.outputs) * width, width, width)
            self.readout = nn.Sequential(
                nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]), nn.ReLU(),
                nn.Linear(sizes[2], outputs),
            )  # fmt: skip
        else:
            self.edge_head = nn.Sequential(
                nn.Linear(edge_width, edge_width), nn.ReLU(), nn.Linear(edge_width, self.plan.taps)
            )
            self.node_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
            self.weight_scale = nn.Parameter(torch.full((len(self.plan.weights),), 0.01))
            self.bias_scale = nn.Parameter(torch.full((len(self.plan.biases),), 0.01))

    edge_channels = 1

    def plan_of(self, graph: NeuralGraph) -> Plan:
        """What the published constructor makes of an architecture.

        Raises:
            ValueError: It has no place for a parameter.
        """
        return _plan(graph)

    def fit_statistics(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> None:
        """Take normalisation, one mean and standard deviation per parameter, from training networks."""
        self.normaliser.fit(graph, params)

    def _nodes(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:  # [net, node, width]
        if graph.fingerprint() != self.architecture:
            raise GraphMismatchError("the published encoders read one architecture, and were made for another one")
        check_params(graph, params, lead=1)
        networks = len(next(iter(params.values())))
        example = self.position.weight
        biases = example.new_zeros(networks, self.plan.nodes, 1)
        for block, nodes in self.plan.biases:
            values = self.normaliser(graph, block, require(params, block))
            biases = biases.index_copy(1, nodes.to(biases.device), values.reshape(networks, -1, 1))
        return self.node_in(biases) + self.position(self.plan.positions.to(biases.device))

    def _kernels(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> list[Tensor]:  # [net, row, col, taps]
        """Normalised weights, each kernel in the middle of the largest one."""
        found = []
        for block, _, _ in self.plan.weights:
            matrix = self.normaliser(graph, block, block.to_matrix(require(params, block)))[:, 0]
            missing = self.plan.taps - matrix.shape[-1]
            found.append(nn.functional.pad(matrix, (missing // 2, missing - missing // 2)))
        return found

    def _change(
        self, params: Mapping[str, Tensor], node_out: Tensor, edge_out: list[Tensor], first: int
    ) -> dict[str, Tensor]:
        """Old parameters plus scaled changes; biases are read ``first`` nodes before their own."""
        new = {}
        for k, (block, _, _) in enumerate(self.plan.weights):
            missing = self.plan.taps - block.matrix_shape[3]
            change = edge_out[k][..., missing // 2 : self.plan.taps - (missing - missing // 2)]
            change = block.from_matrix(change[:, None]) * self.weight_scale[k]
            new[block.name] = (require(params, block) + change)[:, None]
        for k, (block, nodes) in enumerate(self.plan.biases):
            change = node_out[:, nodes.to(node_out.device) - first, 0].reshape(-1, *block.shape) * self.bias_scale[k]
            new[block.name] = (require(params, block) + change)[:, None]
        return new


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


class PublishedNGT(Published):
    """NG-T as published; see the module docstring. Arguments as for `Published`, with the published defaults."""

    def __init__(
        self, graph: NeuralGraph, task: str = "classify", outputs: int = 10, width: int = 64, edge_width: int = 32,
        attention: int = 128, heads: int | None = None, layers: int = 4, dropout: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(graph, task, outputs, width, edge_width, 1.0 if task == "classify" else 3.0)
        heads = heads if heads is not None else 8 if task == "classify" else 4
        dropout = dropout if dropout is not None else 0.2 if task == "classify" else 0.3
        self.layers = nn.ModuleList(
            _PublishedAttention(width, edge_width, attention, heads, dropout) for _ in range(layers)
        )
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """See `ngopt.encoder.metanetwork.Metanetwork.forward`."""
        h = self._nodes(graph, params)
        pairs = h.new_zeros(len(h), self.plan.nodes, self.plan.nodes, self.plan.taps)
        places = [(rows.to(h.device)[:, None], cols.to(h.device)) for _, rows, cols in self.plan.weights]
        for kernel, (rows, cols) in zip(self._kernels(graph, params), places, strict=True):
            pairs[:, rows, cols] = kernel
        e = self.edge_in(pairs)
        for layer in self.layers:
            h, e = layer(h, e)
        if self.task == "classify":
            return self.readout(h[:, self.plan.outputs.to(h.device)].flatten(1))
        edge_out = [self.edge_head(e[:, rows, cols]) for rows, cols in places]
        return self._change(params, self.node_head(h), edge_out, first=0)


class _PublishedAttention(nn.Module):
    """Relational attention over all pairs, post-norm, and its edge update."""

    def __init__(self, width: int, edge_width: int, attention: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.nodes = nn.Linear(width, 3 * attention)
        self.edges = nn.Linear(edge_width, 4 * attention)
        self.out = nn.Linear(attention, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.ends = nn.Linear(2 * width + 2 * edge_width, 2 * edge_width)
        self.ends_out = nn.Linear(2 * edge_width, edge_width)
        self.edge_mlp = nn.Sequential(
            nn.Linear(edge_width, 2 * edge_width), nn.GELU(), nn.Linear(2 * edge_width, edge_width)
        )
        self.edge_norms = nn.ModuleList([nn.LayerNorm(edge_width), nn.LayerNorm(edge_width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:  # [net, i, width], [net, i, j, edge_width]
        query, key, value = self.nodes(h).chunk(3, dim=-1)
        edge_query, edge_key, edge_scale, edge_shift = self.edges(e).chunk(4, dim=-1)
        product = (query[:, :, None] + edge_query) * (key[:, None] + edge_key)
        logits = reduce(product, "net i j (head entry) -> net i j head", "sum", head=self.heads) * self.attention**-0.5
        mixed = rearrange(
            value[:, None] * edge_scale + edge_shift, "net i j (head e) -> net i j head e", head=self.heads
        )
        heard = reduce(mixed * logits.softmax(2)[..., None], "net i j head entry -> net i (head entry)", "sum")
        h = self.norms[0](h + self.dropout(self.out(heard)))
        h = self.norms[1](h + self.dropout(self.mlp(h)))
        width, edge_width = h.shape[-1], e.shape[-1]
        at_i, at_j, own, back = self.ends.weight.split((width, width, edge_width, edge_width), dim=1)
        linear = nn.functional.linear
        ends = linear(h, at_i, self.ends.bias)[:, :, None] + linear(h, at_j)[:, None]
        ends = ends + linear(e, own) + linear(e.transpose(1, 2), back)
        e = self.edge_norms[0](e + self.dropout(self.ends_out(nn.functional.gelu(ends))))
        return h, self.edge_norms[1](e + self.dropout(self.edge_mlp(e)))
