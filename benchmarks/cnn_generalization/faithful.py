"""The published NG-GNN and NG-T for many architectures at once, which `ngopt.encoder.published` refuses.

The models are those; only what they read is made anew for each architecture. As in the paper a node carries an
embedding of its activation, positions of hidden layers are counted from the input, and a flattened pixel is one more
channel of an edge. What the published code has no place for at all becomes further features of the neuron that it
belongs to: scales and shifts of norms, and BatchNorm's statistics. Tokens (mixers, ViTs, hybrids) are not read.

Two things differ from published code. NG-GNN normalises over the networks of one architecture in a batch, not over the
whole batch: these may be checkpoints of one run, so that a network is read beside its siblings. NG-T's attention has no
padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cnn_generalization.kinds import OF_NEURONS, kinds
from ngopt.encoder.layout import check_params, edge_blocks, require
from ngopt.encoder.normalise import Normaliser
from ngopt.encoder.published import Plan
from ngopt.encoder.published_ng_gnn import PublishedNGGNN
from ngopt.encoder.published_ng_t import PublishedNGT
from ngopt.encoder.structure import ACTIVATIONS
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock

LAYERS = 12  # hidden layers with a position of their own; deeper ones share the last
TAPS = 64  # of the largest edge: a kernel of 7 x 7, or 8 x 8 flattened pixels


def plan(graph: NeuralGraph) -> Plan:
    """What the encoders read of an architecture; ``biases`` are all parameters and statistics of nodes.

    Raises:
        ValueError: The architecture is not one of convolutions, norms and linear layers.
    """
    weights: list[tuple[ParamBlock, Tensor, Tensor]] = []
    for block in edge_blocks(graph):
        rows, cols = block.row_nodes.flatten(), block.col_nodes.flatten().unique()
        pixels = block.matrix_shape[2] // len(cols)
        if (
            dict(block.attributes).get("op") not in ("linear", "convolution")
            or block.matrix_shape[0] != 1
            or len(rows.unique()) < len(rows)
            or len(cols) * pixels != block.matrix_shape[2]
            or max(block.matrix_shape[3], pixels) > TAPS
            or min(block.matrix_shape[3], pixels) > 1
        ):
            raise ValueError(f"'{block.name}', shape {block.shape}, is not a convolution or a linear layer")
        weights.append((block, rows, cols))
    written = torch.cat([rows for _, rows, _ in weights]).unique()
    read = torch.cat([cols for _, _, cols in weights]).unique()
    used = torch.cat([written, read]).unique()
    place = torch.full((graph.num_nodes,), -1)
    place[used] = torch.arange(len(used))
    inputs, outputs = used[~torch.isin(used, written)], written[~torch.isin(written, read)]
    positions = torch.zeros(len(used), dtype=torch.long)
    positions[place[inputs]] = torch.arange(len(inputs))
    positions[place[outputs]] = torch.arange(len(outputs)) + len(inputs) + LAYERS
    layer, seen = 0, outputs
    for _, rows, _ in weights:  # shortcuts come last, and write to neurons that have their place already
        new = rows[~torch.isin(rows, seen)]
        positions[place[new]] = len(inputs) + min(layer, LAYERS - 1)
        layer, seen = layer + bool(len(new)), torch.cat([seen, new])
    kind_of, biases = kinds(graph), []
    for block in (*graph.blocks, *graph.buffers):
        if block.is_edge or block.role == "unused":
            continue
        nodes = place[block.row_nodes.flatten()]
        if len(nodes) != block.numel or kind_of[block.name] not in OF_NEURONS:
            raise ValueError(f"'{block.name}', shape {block.shape}, is no parameter of neurons")
        if (nodes >= 0).all():  # else it belongs to nodes without edges, as the biases of frozen outputs of size one
            biases.append((block, nodes))
    return Plan(
        nodes=len(used),
        positions=positions,
        position_rows=len(inputs) + LAYERS + len(outputs),
        inputs=len(inputs),
        outputs=place[outputs],
        weights=[(block, place[rows], place[cols]) for block, rows, cols in weights],
        biases=biases,
        taps=TAPS,
    )


def readable(graph: NeuralGraph) -> bool:
    """Whether there is a plan for an architecture."""
    try:
        plan(graph)
    except ValueError:
        return False
    return True


class _Many:
    """Makes a published model read many architectures: it takes the form of each before it reads it.

    Args:
        graphs: Architectures that normalisation is to be measured of.
        example: Any architecture; only its inputs and outputs matter.
        activations: Whether nodes have an embedding of their activation.
    """

    def __init__(
        self, graphs: Sequence[NeuralGraph], example: NeuralGraph, activations: bool = True, **options: Any
    ) -> None:
        self._plans: dict[int, tuple[NeuralGraph, Plan, Tensor]] = {}
        super().__init__(example, "classify", **options)
        self.normaliser = Normaliser(graphs)
        first = self.node_in[0]
        self.node_in[0] = type(first)(len(OF_NEURONS), 3.0 if isinstance(self, PublishedNGGNN) else 1.0)
        self.activation = nn.Embedding(len(ACTIVATIONS), self.width) if activations else None

    def plan_of(self, graph: NeuralGraph) -> Plan:
        return plan(graph)

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[net, output]`` of networks of one architecture."""
        if id(graph) not in self._plans:
            self._plans[id(graph)] = (graph, self.plan_of(graph), _activations(graph))  # the graph stays alive with it
        _, self.plan, self._functions = self._plans[id(graph)]
        self._connect()
        return super().forward(graph, params)

    def _connect(self) -> None:
        """Nothing more to change."""

    def _nodes(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:  # [net, node, width]
        check_params(graph, params, lead=1)
        networks, device = len(next(iter(params.values()))), self.position.weight.device
        features = self.position.weight.new_zeros(networks, self.plan.nodes, len(OF_NEURONS))
        kind_of = kinds(graph)
        for block, nodes in self.plan.biases:  # a neuron that several layers write to has several biases
            channel = features[..., OF_NEURONS.index(kind_of[block.name])]
            values = self.normaliser(graph, block, require(params, block)).reshape(networks, -1)
            channel.index_add_(1, nodes.to(device), values.to(features))
        h = self.node_in(features) + self.position(self.plan.positions.to(device))
        return h if self.activation is None else h + self._functions.to(h) @ self.activation.weight

    def _kernels(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> list[Tensor]:  # [net, row, col, taps]
        found = []
        for block, _, cols in self.plan.weights:
            matrix = self.normaliser(graph, block, block.to_matrix(require(params, block)))[:, 0]
            if matrix.shape[2] > len(cols):  # pixels become taps, in the order of nodes and their slots
                order = (block.col_nodes * matrix.shape[2] + block.col_slots).flatten().argsort().to(matrix.device)
                matrix = matrix[:, :, order].flatten(2).unflatten(2, (len(cols), -1))
            missing = TAPS - matrix.shape[-1]
            found.append(nn.functional.pad(matrix, (missing // 2, missing - missing // 2)))
        return found


class ManyNGGNN(_Many, PublishedNGGNN):
    """NG-GNN as published, for many architectures."""

    def _connect(self) -> None:
        self._relations, amplify, degree = self.connections(self.plan)
        device = self.position.weight.device
        self.amplify, self.degree = amplify.to(device), degree.to(device)


class ManyNGT(_Many, PublishedNGT):
    """NG-T as published, for many architectures."""


FAITHFUL = {"ng_gnn": ManyNGGNN, "ng_t": ManyNGT}


def _activations(graph: NeuralGraph) -> Tensor:  # [node with edges, activation]
    """Which activations each node of `plan` has; where layers are added up it can have several."""
    has = torch.zeros(graph.num_nodes, len(ACTIVATIONS))
    for group in graph.groups:
        has[group.start : group.stop] = torch.tensor([float(name in group.activations) for name in ACTIVATIONS])
    used = torch.cat([torch.cat([b.row_nodes.flatten(), b.col_nodes.flatten()]) for b in edge_blocks(graph)]).unique()
    return has[used]
