"""Layouts: how the networks of a batch lie in memory while an encoder works on them.

`dense_layout`: networks of one architecture, stacked along a leading axis; every block is one dense relation.
`mixed_layout`: any mixture, as one big disjoint graph collated by PyG's `Batch`; relation k holds the k-th block of each
network. An encoder gives the same embeddings with both, up to rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from ngopt.encoder.codes import codes
from ngopt.encoder.relations import BlockEdges, ListEdges, Relation
from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock


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
        neurons: Which nodes are hidden neurons, ``[node]``.
        outputs: Which nodes have an identity of their own and are written to, ``[node]``.
    """

    relations: tuple[Relation, ...]
    values: tuple[Values, ...]
    links: ListEdges | None
    node_codes: Tensor
    vectors: tuple[tuple[Tensor, Values], ...]
    network: Tensor | None
    networks: int
    neurons: Tensor
    outputs: Tensor


def edge_blocks(graph: NeuralGraph) -> list[ParamBlock]:
    """Blocks that become relations."""
    return [block for block in graph.blocks if block.is_edge and block.role != "unused"]


def vector_blocks(graph: NeuralGraph) -> list[ParamBlock]:
    """Parameters and learned buffers that become node features."""
    return [block for block in (*graph.blocks, *graph.buffers) if not block.is_edge and block.role != "unused"]


def require(state: Mapping[str, Tensor], block: ParamBlock) -> Tensor:
    """The tensor of a block, under its name or that of a tied one."""
    return next(state[name] for name in (block.name, *block.aliases) if name in state)


_dense: dict[tuple[int, torch.device], Layout] = {}


def dense_layout(graph: NeuralGraph, device: torch.device | str = "cpu") -> Layout:
    """The layout for stacks of networks of one architecture; made once and kept as long as the graph lives."""
    key = (id(graph), torch.device(device))
    if key not in _dense:
        _dense[key] = _build_dense(graph, key[1])
        weakref.finalize(graph, _dense.pop, key, None)
    return _dense[key]


def _build_dense(graph: NeuralGraph, device: torch.device) -> Layout:
    known, nodes = codes(graph, device), graph.to(device)
    relations, values, vectors = [], [], []
    for block in edge_blocks(nodes):
        assert block.col_nodes is not None
        relations.append(BlockEdges(block.row_nodes, block.col_nodes))
        values.append(Values(known.rows[block.name], known.cols[block.name], known.taps[block.name]))
    for block in vector_blocks(nodes):
        place = Values(known.rows[block.name], None, known.taps[block.name])
        vectors.append((block.row_nodes.flatten(), place))
    neurons, outputs = _kinds(graph)
    return Layout(
        tuple(relations),
        tuple(values),
        _links(nodes.links),
        known.nodes,
        tuple(vectors),
        None,
        1,
        neurons.to(device),
        outputs.to(device),
    )


def _kinds(graph: NeuralGraph) -> tuple[Tensor, Tensor]:  # [node], twice
    """Which nodes are hidden neurons, and which are outputs."""
    frozen = structure(graph).frozen
    written, blocks = torch.zeros_like(frozen), torch.zeros_like(frozen)
    for block in graph.blocks:
        written[block.row_nodes.flatten().cpu()] = True
    for group in graph.groups:
        blocks[group.start : group.stop] = group.kind == "block"
    return ~(frozen | blocks), frozen & written


def _links(links: Tensor) -> ListEdges | None:  # [2, link] node -> its block
    if not links.shape[1]:
        return None
    member_nodes, members = torch.unique(links[0], return_inverse=True)
    block_nodes, blocks = torch.unique(links[1], return_inverse=True)
    return ListEdges(members, blocks, member_nodes, block_nodes)


class _NetworkData(Data):
    """One network for PyG's `Batch`: knows by how much each index grows from network to network."""

    def __inc__(self, key: str, value: Tensor, *args: object, **kwargs: object) -> int:
        grows = {"node": self.num_nodes, "row": self.num_rows, "col": self.num_cols, "edge": self.num_pairs}
        grows["vector"] = self.num_vectors
        return grows.get(key.rpartition("_to_")[2], 0)

    def __cat_dim__(self, key: str, value: Tensor, *args: object, **kwargs: object) -> int:
        return 1 if key == "link_to_node" else 0


_data: dict[tuple[int, torch.device], _NetworkData] = {}


def network_data(graph: NeuralGraph, device: torch.device | str = "cpu") -> _NetworkData:
    """A network's edges, one per pair of a row and a column, as PyG data; made once per graph and device."""
    key = (id(graph), torch.device(device))
    if key not in _data:
        _data[key] = _build_data(graph, key[1])
        weakref.finalize(graph, _data.pop, key, None)
    return _data[key]


def _build_data(graph: NeuralGraph, device: torch.device) -> _NetworkData:
    known = codes(graph)
    pieces: dict[str, list[Tensor]] = {}

    def add(**columns: Tensor) -> None:
        for name, column in columns.items():
            pieces.setdefault(name, []).append(column)

    rows = cols = pairs = vectors = 0
    for step, block in enumerate(edge_blocks(graph)):
        assert block.col_nodes is not None
        group, row, col, tap = block.matrix_shape
        at = torch.arange(group * row * col)
        row_of = at // col
        col_of = at // (row * col) * col + at % col
        entry = torch.arange(len(at) * tap)
        add(pair_to_row=rows + row_of, pair_to_col=cols + col_of, pair_step=torch.full_like(at, step))
        add(entry_to_edge=pairs + entry // tap, entry_tap=known.taps[block.name][entry % tap])
        add(entry_step=torch.full_like(entry, step), pair_taps=torch.full((len(at), 1), float(tap)))
        add(row_to_node=block.row_nodes.flatten(), row_code=known.rows[block.name])
        add(col_to_node=block.col_nodes.flatten(), col_code=known.cols[block.name])
        add(row_step=torch.full((group * row,), step), col_step=torch.full((group * col,), step))
        rows, cols, pairs = rows + group * row, cols + group * col, pairs + len(at)
    for block in vector_blocks(graph):
        group, row, _, tap = block.matrix_shape
        entry = torch.arange(group * row * tap)
        add(vector_to_node=block.row_nodes.flatten(), vector_code=known.rows[block.name])
        add(value_to_vector=vectors + entry // tap, value_tap=known.taps[block.name][entry % tap])
        add(vector_taps=torch.full((group * row, 1), float(tap)))
        vectors += group * row
    neurons, outputs = _kinds(graph)
    data = _NetworkData(num_nodes=graph.num_nodes, link_to_node=graph.links.cpu(), node_code=known.nodes)
    data.neurons, data.outputs = neurons, outputs
    data.num_rows, data.num_cols, data.num_pairs, data.num_vectors = rows, cols, pairs, vectors
    for name, parts in pieces.items():
        data[name] = torch.cat(parts)
    return data.to(str(device))


def mixed_layout(graphs: Sequence[NeuralGraph], device: torch.device | str = "cpu") -> Layout:
    """The layout for one network of each of ``graphs``, in this order."""
    batch = Batch.from_data_list([network_data(graph, device) for graph in graphs])
    relations, values = [], []
    for step in range(int(batch.pair_step.max()) + 1 if "pair_step" in batch else 0):
        pair, row, col, entry = (
            (batch[f"{part}_step"] == step).nonzero().flatten() for part in ("pair", "row", "col", "entry")
        )
        edge_rows, edge_cols = _renumber(row, batch.pair_to_row[pair]), _renumber(col, batch.pair_to_col[pair])
        relations.append(ListEdges(edge_rows, edge_cols, batch.row_to_node[row], batch.col_to_node[col]))
        values.append(
            Values(
                batch.row_code[row],
                batch.col_code[col],
                batch.entry_tap[entry],
                _renumber(pair, batch.entry_to_edge[entry]),
                batch.pair_taps[pair],
            )
        )
    vectors = ()
    if "vector_code" in batch:
        place = Values(batch.vector_code, None, batch.value_tap, batch.value_to_vector, batch.vector_taps)
        vectors = ((batch.vector_to_node, place),)
    return Layout(
        tuple(relations),
        tuple(values),
        _links(batch.link_to_node),
        batch.node_code,
        vectors,
        batch.batch,
        len(graphs),
        batch.neurons,
        batch.outputs,
    )


def _renumber(chosen: Tensor, index: Tensor) -> Tensor:
    """Places of ``index`` in the sorted ``chosen``."""
    return torch.searchsorted(chosen, index)
