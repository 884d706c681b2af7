"""Views of a `NeuralGraph` for others: PyTorch Geometric, a fingerprint, a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ngopt.errors import GraphMismatchError
from ngopt.extras import extra
from ngopt.graph.elements import GraphElements, ParamBlock

if TYPE_CHECKING:
    from torch_geometric.data import Data


def to_pyg(graph: GraphElements, state: Mapping[str, Tensor] | None = None) -> Data:
    """One edge per parameter entry, from the in neuron to the out neuron; vectors are self-loops on their neurons.

    Attributes of the result: ``edge_index [2, edge]``; ``edge_block [edge]`` index into ``graph.blocks``;
    ``edge_tap``, ``edge_row_slot``, ``edge_col_slot [edge]``; ``edge_value [edge]`` with ``state``;
    ``node_group``, ``node_is_block``, ``node_is_frozen [node]``; ``link_index [2, link]`` from nodes to their blocks.
    Edges of a block are ordered as its matrix view, so that values can be written back (`ParamBlock.from_matrix`).

    Raises:
        MissingExtraError: torch_geometric is not installed.
        GraphMismatchError: ``state`` lacks a parameter or holds one of another shape.
    """
    check_state(graph, state)
    with extra("encoders", "to_pyg()"):
        from torch_geometric.data import Data

    pieces: dict[str, list[Tensor]] = {
        key: [] for key in ("edge_index", "edge_block", "edge_tap", "edge_row_slot", "edge_col_slot")
    }
    values = []
    for i, block in enumerate(graph.blocks):
        rows, cols, taps, row_slots, col_slots = _entries(block)
        pieces["edge_index"].append(torch.stack([cols, rows]))
        pieces["edge_block"].append(torch.full_like(rows, i))
        pieces["edge_tap"].append(taps)
        pieces["edge_row_slot"].append(row_slots)
        pieces["edge_col_slot"].append(col_slots)
        if state is not None:
            values.append(block.to_matrix(state[block.name]).reshape(-1))
    sizes = torch.tensor([group.size for group in graph.groups])
    data = Data(num_nodes=graph.num_nodes, link_index=graph.links)
    for key, parts in pieces.items():
        data[key] = torch.cat(parts, -1)
    if values:
        data.edge_value = torch.cat(values)
    data.node_group = torch.arange(len(sizes)).repeat_interleave(sizes)
    data.node_is_block = torch.tensor([g.kind == "block" for g in graph.groups]).repeat_interleave(sizes)
    data.node_is_frozen = torch.tensor([g.frozen for g in graph.groups]).repeat_interleave(sizes)
    return data


def check_state(graph: GraphElements, state: Mapping[str, Tensor] | None) -> None:
    """Raise `GraphMismatchError` if a state lacks a parameter of the graph or holds one of another shape."""
    for block in graph.blocks if state is not None else ():
        if state is not None and (block.name not in state or tuple(state[block.name].shape) != block.shape):
            raise GraphMismatchError(f"state has no '{block.name}' of shape {block.shape}")


def _entries(block: ParamBlock) -> tuple[Tensor, ...]:
    """Row node, column node, tap, row slot and column slot of every entry, in the order of the matrix view."""
    taps = block.matrix_shape[3]

    def wide(index: Tensor, axis: int) -> Tensor:
        return (
            (index[:, :, None, None] if axis == 1 else index[:, None, :, None]).expand(block.matrix_shape).reshape(-1)
        )

    tap = torch.arange(taps).expand(block.matrix_shape).reshape(-1)
    row, row_slot = wide(block.row_nodes, 1), wide(block.row_slots, 1)
    if block.col_nodes is None or block.col_slots is None:
        return row, row, tap, row_slot, row_slot
    return row, wide(block.col_nodes, 2), tap, row_slot, wide(block.col_slots, 2)


def fingerprint(graph: GraphElements) -> str:
    """See `NeuralGraph.fingerprint`. Covers ops and settings, roles, sizes, and how every index is coloured."""
    digest = hashlib.sha256()
    for block in (*graph.blocks, *graph.buffers):
        digest.update(repr((block.name, block.matrix_shape, block.perm, block.role, block.attributes)).encode())
    for group in graph.groups:
        digest.update(repr((group.name, group.size, group.kind, group.frozen, group.activations)).encode())
    digest.update(repr(graph.program).encode())
    if graph.symmetries is not None:
        structure = graph.symmetries.structure
        digest.update(structure.class_of.tobytes())
        digest.update(structure.colour[structure.class_of].tobytes())
        digest.update(structure.table.role.tobytes())
    return digest.hexdigest()[:16]


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table with a head."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def summary(graph: GraphElements) -> str:
    """See `NeuralGraph.summary`."""
    groups = [(g.name, g.kind, str(g.size), "fixed" if g.frozen else "", " ".join(g.activations)) for g in graph.groups]
    blocks = [
        (
            b.name,
            b.role,
            "x".join(map(str, b.shape)) or "scalar",
            _between(graph, b),
            " ".join(f"={a}" for a in b.aliases),
        )
        for b in graph.blocks
    ]
    symmetries = [
        (s.name, s.kind, f"S_{s.degree}" + (f" ^ {s.copies}" if s.copies > 1 else "")) for s in graph.symmetries or ()
    ]
    note = "certified by numbers" if graph.certified else "not certified"
    return "\n".join(
        [
            f"{graph.num_nodes:,} nodes in {len(graph.groups)} groups, {graph.num_parameters:,} parameters",
            "",
            *table(("nodes", "kind", "size", "", "functions"), groups),
            "",
            *table(("parameter", "role", "shape", "between", ""), blocks),
            "",
            f"Symmetries ({note}):",
            *table(("nodes", "kind", "group"), symmetries),
        ]
    )


def _between(graph: GraphElements, block: ParamBlock) -> str:
    rows = ", ".join(groups_at(graph, block.row_nodes))
    return rows if block.col_nodes is None else f"{', '.join(groups_at(graph, block.col_nodes))} -> {rows}"


def groups_at(graph: GraphElements, nodes: Tensor) -> list[str]:
    """Names of the groups that the nodes are in, in order."""
    starts = torch.tensor([g.start for g in graph.groups])
    where = torch.searchsorted(starts, nodes.reshape(-1), right=True) - 1
    return [graph.groups[i].name for i in dict.fromkeys(where.tolist())]
