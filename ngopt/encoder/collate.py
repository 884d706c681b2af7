"""Mixtures of networks as one big disjoint graph, collated by PyG's `Batch`.

PyG takes seconds to import, and so does so only when this is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ngopt.encoder.codes import BLOCK_CODE, PLACE, TAP_CODE, codes
from ngopt.encoder.layout import Layout, Values, edge_blocks, end_nodes, link_relation, vector_blocks
from ngopt.encoder.relations import ListEdges
from ngopt.extras import extra
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.per_graph import per_graph

with extra("encoders", "reading networks of several architectures"):
    from torch_geometric.data import Batch, Data


class _NetworkData(Data):
    """One network for PyG's `Batch`: knows by how much each index grows from network to network."""

    def __inc__(self, key: str, value: Tensor, *args: object, **kwargs: object) -> int:
        grows = {"node": self.num_nodes, "row": self.num_rows, "col": self.num_cols, "edge": self.num_pairs}
        grows["vector"] = self.num_vectors
        return grows.get(key.rpartition("_to_")[2], 0)

    def __cat_dim__(self, key: str, value: Tensor, *args: object, **kwargs: object) -> int:
        return 1 if key == "link_to_node" else 0


def network_data(graph: NeuralGraph, device: torch.device | str = "cpu") -> _NetworkData:
    """A network's edges, one per pair of a row and a column, as PyG data; made once per graph and device."""
    return _build_data(graph, torch.device(device))


@per_graph
def _build_data(graph: NeuralGraph, device: torch.device) -> _NetworkData:
    known = codes(graph)
    index = ("pair_to_row", "pair_to_col", "pair_step", "entry_to_edge", "entry_step", "row_to_node", "row_step")
    index += ("col_to_node", "col_step", "vector_to_node", "value_to_vector")
    pieces = {name: [torch.zeros(0, dtype=torch.long)] for name in index}  # all networks need all columns
    sizes = {"entry_tap": TAP_CODE, "value_tap": TAP_CODE, "row_code": BLOCK_CODE, "vector_code": BLOCK_CODE}
    sizes |= {"col_code": PLACE, "pair_taps": 1, "vector_taps": 1}
    pieces |= {name: [known.nodes.new_zeros(0, size)] for name, size in sizes.items()}

    def add(**columns: Tensor) -> None:
        for name, column in columns.items():
            pieces[name].append(column)

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
        add(row_to_node=block.row_nodes.flatten().cpu(), row_code=known.rows[block.name])
        add(col_to_node=block.col_nodes.flatten().cpu(), col_code=known.cols[block.name])
        add(row_step=torch.full((group * row,), step), col_step=torch.full((group * col,), step))
        rows, cols, pairs = rows + group * row, cols + group * col, pairs + len(at)
    for block in vector_blocks(graph):
        group, row, _, tap = block.matrix_shape
        entry = torch.arange(group * row * tap)
        add(vector_to_node=block.row_nodes.flatten().cpu(), vector_code=known.rows[block.name])
        add(value_to_vector=vectors + entry // tap, value_tap=known.taps[block.name][entry % tap])
        add(vector_taps=torch.full((group * row, 1), float(tap)))
        vectors += group * row
    data = _NetworkData(num_nodes=graph.num_nodes, link_to_node=graph.links.cpu(), node_code=known.nodes)
    data.inputs, data.outputs = end_nodes(graph)
    data.num_rows, data.num_cols, data.num_pairs, data.num_vectors = rows, cols, pairs, vectors
    for name, parts in pieces.items():
        data[name] = torch.cat(parts)
    return data.to(str(device))


def mixed_layout(graphs: Sequence[NeuralGraph], device: torch.device | str = "cpu") -> Layout:
    """The layout for one network of each of ``graphs``, in this order."""
    batch: Any = Batch.from_data_list([network_data(graph, device) for graph in graphs])
    relations, values = [], []
    for step in range(int(batch.pair_step.max()) + 1 if len(batch.pair_step) else 0):
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
    place = Values(batch.vector_code, None, batch.value_tap, batch.value_to_vector, batch.vector_taps)
    vectors = ((batch.vector_to_node, place),)
    return Layout(
        tuple(relations),
        tuple(values),
        link_relation(batch.link_to_node),
        batch.node_code,
        vectors,
        batch.batch,
        len(graphs),
        batch.inputs.nonzero().flatten(),
        batch.outputs.nonzero().flatten(),
    )


def _renumber(chosen: Tensor, index: Tensor) -> Tensor:
    """Places of ``index`` in the sorted ``chosen``."""
    return torch.searchsorted(chosen, index)
