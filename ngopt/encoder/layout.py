"""Layouts: how the networks of a batch lie in memory while an encoder works on them.

`dense_layout`: networks of one architecture, stacked along a leading axis; every block is one dense relation.
`ngopt.encoder.collate.mixed_layout`: any mixture, as one big disjoint graph; relation k holds the k-th block of each
network. An encoder gives the same embeddings with both, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ngopt.encoder.codes import codes
from ngopt.encoder.relations import BlockEdges, ListEdges, Relation
from ngopt.encoder.structure import structure
from ngopt.errors import GraphMismatchError
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.per_graph import per_graph


@dataclass(frozen=True)
class Values:
    """Where the entries of a relation's parameters, or of parameters that belong to nodes, go.

    Attributes:
        rows: Codes of the rows, ``[row, BLOCK_CODE]``.
        cols: Codes of the columns, ``[col, PLACE]``; None for node features.
        taps: Codes of the taps: ``[tap, TAP_CODE]`` dense, ``[entry, TAP_CODE]`` in a list.
        entry_edge: Edge (or row) of each entry, ``[entry]``; None where entries are dense ``[*edge, tap]``.
        edge_taps: Entries of each edge (or row), ``[edge, 1]``; None where dense.
    """

    rows: Tensor
    cols: Tensor | None
    taps: Tensor
    entry_edge: Tensor | None = None
    edge_taps: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Values:
        """The same with codes of another number type."""
        cols = None if self.cols is None else self.cols.to(dtype)
        return replace(self, rows=self.rows.to(dtype), cols=cols, taps=self.taps.to(dtype))


@dataclass(frozen=True)
class Layout:
    """The graph, or graphs, that an encoder works on.

    Attributes:
        relations: In the order of the parameters.
        values: One for each relation.
        links: From blocks (columns) to their members (rows); None without any.
        node_codes: ``[node, NODE_CODE]``.
        vectors: Per collection of parameters with one neuron axis, and learned buffers: node of each row, and values.
        network: For each node which network it is of, ``[node]``; None if node tensors have a leading axis instead.
        networks: How many; 1 with a leading axis.
        inputs: Nodes with an identity of their own that are only read, ``[input]``.
        outputs: Nodes with an identity of their own that are written to, ``[output]``.
    """

    relations: tuple[Relation, ...]
    values: tuple[Values, ...]
    links: ListEdges | None
    node_codes: Tensor
    vectors: tuple[tuple[Tensor, Values], ...]
    network: Tensor | None
    networks: int
    inputs: Tensor
    outputs: Tensor

    def to(self, dtype: torch.dtype) -> Layout:
        """The same with codes of another number type."""
        return replace(
            self,
            values=tuple(values.to(dtype) for values in self.values),
            node_codes=self.node_codes.to(dtype),
            vectors=tuple((nodes, values.to(dtype)) for nodes, values in self.vectors),
        )


def edge_blocks(graph: NeuralGraph) -> list[ParamBlock]:
    """Blocks that become relations, in the order in which the program uses them."""
    return list(graph.edges)


def vector_blocks(graph: NeuralGraph) -> list[ParamBlock]:
    """Parameters and learned buffers that become node features."""
    return [block for block in (*graph.blocks, *graph.buffers) if not block.is_edge and block.role != "unused"]


def require(state: Mapping[str, Tensor], block: ParamBlock) -> Tensor:
    """The tensor of a block, under its name or that of a tied one.

    Raises:
        GraphMismatchError: There is none.
    """
    for name in (block.name, *block.aliases):
        if name in state:
            return state[name]
    raise GraphMismatchError(f"the graph has '{block.name}' of shape {block.shape}, the networks have nothing")


def check_params(graph: NeuralGraph, params: Mapping[str, Tensor], lead: int) -> None:
    """That parameters and learned buffers are there, ``[*net, *shape]`` with ``lead`` leading axes, alike for all.

    Raises:
        GraphMismatchError: A parameter is missing, or has another shape, or is of another number of networks.
    """
    stacks = set()
    for block in (*graph.blocks, *graph.buffers):
        if block.role == "unused":
            continue
        tensor = require(params, block)
        if tuple(tensor.shape[lead:]) != block.shape:
            found = tuple(tensor.shape[lead:])
            raise GraphMismatchError(f"the graph has '{block.name}' of shape {block.shape}, the networks have {found}")
        stacks.add(tuple(tensor.shape[:lead]))
    if len(stacks) > 1:
        raise GraphMismatchError(f"parameters are stacked differently: {sorted(stacks)}; stack as many of each")


def alike(graphs: Sequence[NeuralGraph]) -> list[list[int]]:
    """Places of the graphs that are of one architecture, with neurons in the same order."""
    places: dict[object, list[int]] = {}
    for place, graph in enumerate(graphs):
        traced = graph.symmetries is not None  # the fingerprint of others does not cover all
        places.setdefault((graph.fingerprint(), graph.scalings) if traced else id(graph), []).append(place)
    return list(places.values())


def dense_layout(graph: NeuralGraph, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Layout:
    """The layout for stacks of networks of one architecture; made once and kept as long as the graph lives."""
    return _build_dense(graph, torch.device(device), dtype or torch.get_default_dtype())


@per_graph
def _build_dense(graph: NeuralGraph, device: torch.device, dtype: torch.dtype) -> Layout:
    known, nodes = codes(graph, device), graph.to(device)
    relations, values, vectors = [], [], []
    for block in edge_blocks(nodes):
        assert block.col_nodes is not None
        relations.append(BlockEdges(block.row_nodes, block.col_nodes))
        values.append(Values(known.rows[block.name], known.cols[block.name], known.taps[block.name]))
    for block in vector_blocks(nodes):
        place = Values(known.rows[block.name], None, known.taps[block.name])
        vectors.append((block.row_nodes.flatten(), place))
    inputs, outputs = end_nodes(graph)
    return Layout(
        tuple(relations),
        tuple(values),
        link_relation(nodes.links),
        known.nodes,
        tuple(vectors),
        None,
        1,
        inputs.nonzero().flatten().to(device),
        outputs.nonzero().flatten().to(device),
    ).to(dtype)


def end_nodes(graph: NeuralGraph) -> tuple[Tensor, Tensor]:  # [node], twice
    """Which nodes are inputs, and which outputs: frozen, and only read, or written to."""
    written, read = torch.zeros(2, graph.num_nodes, dtype=torch.bool)
    for block in graph.blocks:
        written[block.row_nodes.flatten().cpu()] = True
        if block.col_nodes is not None:
            read[block.col_nodes.flatten().cpu()] = True
    frozen = structure(graph).frozen
    return frozen & read & ~written, frozen & written


def link_relation(links: Tensor) -> ListEdges | None:  # [2, link] node -> its block
    if not links.shape[1]:
        return None
    member_nodes, members = torch.unique(links[0], return_inverse=True)
    block_nodes, blocks = torch.unique(links[1], return_inverse=True)
    return ListEdges(members, blocks, member_nodes, block_nodes)
