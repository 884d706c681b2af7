"""What encoders need of a neural graph besides its features: flat index tensors, counts, and structural features.

All of it depends on the graph alone and is computed once per graph and device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.per_graph import per_graph

ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid", "sin", "softmax")
FUNCTIONS = len(ACTIVATIONS) + 1  # features that say which activation: the last ones
STRUCTURAL_FEATURES = 7 + FUNCTIONS


@dataclass(frozen=True)
class Structure:
    """Indices of one graph on one device.

    Attributes:
        rows: For each block, the node of each row, ``[group * row]``.
        cols: For each block of edges, the node of each column, ``[group * col]``.
        row_share: Per node, one over the number of rows (of all blocks of edges) that it stands at; zero without any.
        col_share: The same for columns.
        links: Pairs of a node and its block, ``[2, link]``.
        member_share: Per node, one over the number of its members.
        block_share: Per node, one over the number of blocks that it is a member of.
        features: Structural node features, ``[node, STRUCTURAL_FEATURES]``.
        frozen: Which nodes have an identity of their own, ``[node]``.
        outputs: Names of blocks that write to frozen nodes only.
        inputs: Names of blocks of edges that read from frozen nodes only.
        depth: For each block of edges, how many blocks hang together with it through hidden neurons (itself counted):
            how deep its network is, in a rough sense.
        flattened: Names of blocks of edges whose network, in that sense, flattens a picture or a sequence; others
            average over positions, or have none.
    """

    rows: dict[str, Tensor]
    cols: dict[str, Tensor]
    row_share: Tensor
    col_share: Tensor
    links: Tensor
    member_share: Tensor
    block_share: Tensor
    features: Tensor
    frozen: Tensor
    outputs: frozenset[str]
    inputs: frozenset[str]
    depth: dict[str, int]
    flattened: frozenset[str]


def structure(graph: NeuralGraph, device: torch.device | str = "cpu") -> Structure:
    """The structure of ``graph`` with its tensors on ``device``; made once and kept as long as the graph lives."""
    return _build(graph, torch.device(device))


@per_graph
def _build(graph: NeuralGraph, device: torch.device) -> Structure:
    nodes = graph.num_nodes
    frozen = torch.zeros(nodes, dtype=torch.bool)
    for group in graph.groups:
        frozen[group.start : group.stop] = group.frozen
    edges = [block for block in graph.blocks if block.is_edge and block.role != "unused"]
    rows = {block.name: block.row_nodes.flatten().cpu() for block in graph.blocks}
    cols = {block.name: block.col_nodes.flatten().cpu() for block in graph.blocks if block.col_nodes is not None}
    row_count = _count([rows[block.name] for block in edges], nodes)
    col_count = _count([cols[block.name] for block in edges], nodes)
    links = graph.links.cpu()
    components = _components(edges, rows, cols, frozen)
    flat = {block.name for block in edges if _reads_positions(block, frozen)}
    return Structure(
        rows={name: index.to(device) for name, index in rows.items()},
        cols={name: index.to(device) for name, index in cols.items()},
        row_share=_share(row_count).to(device),
        col_share=_share(col_count).to(device),
        links=links.to(device),
        member_share=_share(_count([links[1]], nodes)).to(device),
        block_share=_share(_count([links[0]], nodes)).to(device),
        features=_structural_features(graph, edges, rows, cols, frozen).to(device),
        frozen=frozen.to(device),
        outputs=frozenset(name for name, index in rows.items() if bool(frozen[index].all())),
        inputs=frozenset(name for name, index in cols.items() if bool(frozen[index].all())),
        depth={name: len(names) for names in components for name in names},
        flattened=frozenset(name for names in components if not flat.isdisjoint(names) for name in names),
    )


def _components(
    edges: list[ParamBlock], rows: dict[str, Tensor], cols: dict[str, Tensor], frozen: Tensor
) -> list[list[str]]:
    """Names of blocks that hang together: each shares a neuron which is not frozen with another one."""
    components: list[tuple[set[int], list[str]]] = []
    for block in edges:
        nodes = torch.cat([rows[block.name], cols[block.name]]).unique()
        joined, names, apart = set(nodes[~frozen[nodes]].tolist()), [block.name], []
        for component in components:
            if component[0].isdisjoint(joined):
                apart.append(component)
            else:
                joined |= component[0]
                names += component[1]
        components = [*apart, (joined, names)]
    return [names for _, names in components]


def _reads_positions(block: ParamBlock, frozen: Tensor) -> bool:
    """Whether a row reads a hidden neuron at several columns: a picture, or a sequence, that was flattened."""
    if block.col_nodes is None:
        return False
    cols = block.col_nodes.cpu().flatten(1)
    hidden = cols[:, ~frozen[cols].any(0)]
    return any(len(own.unique()) < len(own) for own in hidden)


def _count(indices: list[Tensor], nodes: int) -> Tensor:  # -> [node]
    flat = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.long)
    return torch.bincount(flat, minlength=nodes).double()


def _share(count: Tensor) -> Tensor:
    """One over the count, and zero where there is nothing to share."""
    return torch.where(count > 0, 1 / count.clamp_min(1), 0.0)


def _structural_features(
    graph: NeuralGraph,
    edges: list[ParamBlock],
    rows: dict[str, Tensor],
    cols: dict[str, Tensor],
    frozen: Tensor,
) -> Tensor:  # [node, STRUCTURAL_FEATURES]
    """Sizes on a log scale, flags, and the activation; equal for interchangeable nodes by construction."""
    fan_in, fan_out = torch.zeros(2, graph.num_nodes, dtype=torch.float64)
    for block in edges:
        _, row_size, col_size, taps = block.matrix_shape
        index = rows[block.name]
        fan_in.index_add_(0, index, torch.full(index.shape, col_size * taps, dtype=torch.float64))
        index = cols[block.name]
        fan_out.index_add_(0, index, torch.full(index.shape, row_size * taps, dtype=torch.float64))
    features = torch.zeros(graph.num_nodes, STRUCTURAL_FEATURES, dtype=torch.float64)
    features[:, 0] = torch.log1p(fan_in) / 5
    features[:, 1] = torch.log1p(fan_out) / 5
    features[:, 2] = frozen.double()
    features[:, 3] = (fan_in == 0).double()
    features[:, 4] = (fan_out == 0).double()
    for group in graph.groups:
        nodes = slice(group.start, group.stop)
        features[nodes, 5] = float(group.kind == "block")
        features[nodes, 6] = math.log1p(group.size) / 5
        for activation in group.activations:
            known = ACTIVATIONS.index(activation) if activation in ACTIVATIONS else len(ACTIVATIONS)
            features[nodes, 7 + known] = 1.0
    return features
