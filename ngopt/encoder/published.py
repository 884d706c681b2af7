"""What NG-GNN and NG-T as published share, faults included, so that what the mended encoders gain can be measured.

Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks, ICLR 2024, and its
code. For networks of one architecture, each layer of which is linear or a convolution. The two models are in
`ngopt.encoder.published_ng_gnn` and `ngopt.encoder.published_ng_t`. Kept on purpose: kernels are
padded with zeros to the largest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ngopt.encoder.layout import check_params, edge_blocks, require
from ngopt.encoder.normalise import Normaliser
from ngopt.errors import GraphMismatchError
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock

FREQUENCIES = 128


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
