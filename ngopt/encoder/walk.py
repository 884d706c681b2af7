"""Walks: what `NeuronFlow` needs of a graph, step by step in the order in which the network computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.encoder.characters import FREE, characters
from ngopt.encoder.codes import codes, identities
from ngopt.encoder.layout import end_nodes, vector_blocks
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.graph.per_graph import per_graph

Parts = tuple[tuple[int, Tensor | None], ...]  # characters, and the places that have them; None for all


@dataclass(frozen=True)
class Step:
    """One parameter between neurons.

    Attributes:
        block: The parameter.
        rows: Node of each row, ``[group * row]``; ``cols`` of each column.
        read: The different nodes at columns, and ``places`` where each column's is among them; None for as they are.
        parts: Characters of ``read``.
        constant: Whether all of them are inputs, and so the same in all networks.
        linked: Whether any is a member of a block.
        kinds: Characters at rows and columns.
        row_code: Code of each row, ``[group * row, BLOCK_CODE]``.
        col_code: Of each column, ``[group * col, PLACE]``.
        tap_code: Of each tap, ``[tap, TAP_CODE]``.
    """

    block: ParamBlock
    rows: Tensor
    cols: Tensor
    read: Tensor
    places: Tensor | None
    parts: Parts
    constant: bool
    linked: bool
    kinds: frozenset[int]
    row_code: Tensor
    col_code: Tensor
    tap_code: Tensor


@dataclass(frozen=True)
class Vector:
    """One parameter, or learned buffer, that belongs to neurons: node, code and characters of each row, ``[row]``."""

    block: ParamBlock
    nodes: Tensor
    code: Tensor
    tap_code: Tensor
    kinds: frozenset[int]


@dataclass(frozen=True)
class Walk:
    """A graph as `NeuronFlow` sees it, on one device.

    Attributes:
        kinds: Character of each node, ``[node]``; ``omega`` its angular frequency; ``parts`` the same as places.
        codes: What each node is, ``[node, NODE_CODE]``; ``identity``: which one, ``[node, IDENTITY]``.
        inputs: Nodes that are inputs; ``outputs``: that are outputs; ``ends``: all that nothing reads and that have no
            symmetry of their own; ``dead``: all that nothing reads and that are no outputs, such as queries and keys,
            with their ``dead_parts``.
        links: Nodes and their blocks, ``[2, link]``; ``levels``: how deep blocks are nested.
        member_share: One over the number of members of each node, ``[node, 1]``; ``block_share``: of its blocks;
            ``is_block``: whether it has members.
    """

    steps: tuple[Step, ...]
    vectors: tuple[Vector, ...]
    kinds: Tensor
    omega: Tensor
    parts: Parts
    codes: Tensor
    identity: Tensor
    inputs: Tensor
    outputs: Tensor
    ends: Tensor
    dead: Tensor
    dead_parts: Parts
    links: Tensor
    levels: int
    member_share: Tensor
    block_share: Tensor
    is_block: Tensor


def walk_of(graph: NeuralGraph, device: torch.device | str, dtype: torch.dtype, symmetric: bool = True) -> Walk:
    """The walk through ``graph``; made once and kept as long as the graph lives.

    Args:
        graph: The graph.
        device: Of the walk's tensors.
        dtype: Of its codes.
        symmetric: Whether neurons keep to the sign, phase and scale symmetries that the graph knows of.
    """
    return _build(graph, torch.device(device), dtype, symmetric)


@per_graph
def _build(graph: NeuralGraph, device: torch.device, dtype: torch.dtype, symmetric: bool) -> Walk:
    known = codes(graph, device)
    kinds, omega = characters(graph)
    if not symmetric:
        kinds, omega = torch.full_like(kinds, FREE), torch.ones_like(omega)
    inputs, outputs = end_nodes(graph)
    links = graph.links.cpu()
    is_read = torch.zeros(graph.num_nodes, dtype=torch.bool)
    steps = []
    for block in graph.edges:
        assert block.col_nodes is not None
        cols = block.col_nodes.flatten().cpu()
        read, places = torch.unique(cols, return_inverse=True)
        is_read[read] = True
        steps.append(
            Step(
                block,
                block.row_nodes.flatten().to(device),
                cols.to(device),
                read.to(device),
                None if torch.equal(read, cols) else places.to(device),
                _parts(kinds[read], device),
                bool(inputs[read].all()),
                bool(torch.isin(read, links[0]).any()),
                _found(kinds, block.row_nodes, block.col_nodes),
                known.rows[block.name].to(dtype),
                known.cols[block.name].to(dtype),
                known.taps[block.name].to(dtype),
            )
        )
    vectors = [
        Vector(
            block,
            block.row_nodes.flatten().to(device),
            known.rows[block.name].to(dtype),
            known.taps[block.name].to(dtype),
            _found(kinds, block.row_nodes),
        )
        for block in vector_blocks(graph)
    ]
    ends = ~is_read & ~inputs
    dead = (ends & ~outputs).nonzero().flatten()
    is_block = torch.zeros(graph.num_nodes, dtype=torch.bool)
    is_block[links[1]] = True
    return Walk(
        tuple(steps),
        tuple(vectors),
        kinds.to(device),
        omega.to(device, dtype),
        _parts(kinds, device),
        known.nodes.to(dtype),
        identities(graph).to(device, dtype),
        inputs.nonzero().flatten().to(device),
        outputs.nonzero().flatten().to(device),
        (ends & (kinds == FREE)).nonzero().flatten().to(device),
        dead.to(device),
        _parts(kinds[dead], device),
        links.to(device),
        _levels(links),
        _share(links[1], graph.num_nodes).to(device, dtype),
        _share(links[0], graph.num_nodes).to(device, dtype),
        is_block[:, None].to(device),
    )


def _parts(kinds: Tensor, device: torch.device) -> Parts:
    found = kinds.unique().tolist()
    if len(found) < 2:
        return tuple((kind, None) for kind in found)
    return tuple((kind, (kinds == kind).nonzero().flatten().to(device)) for kind in found)


def _found(kinds: Tensor, *nodes: Tensor) -> frozenset[int]:
    return frozenset(kind for some in nodes for kind in kinds[some.flatten().cpu()].unique().tolist())


def _share(index: Tensor, count: int) -> Tensor:  # -> [node, 1]
    """One over how often each node is mentioned."""
    return 1 / torch.bincount(index, minlength=count).clamp_min(1)[:, None].double()


def _levels(links: Tensor) -> int:
    """How many times a message has to go up to reach the outermost block."""
    levels, inside = 0, links[0]
    while len(inside):
        levels += 1
        inside = links[0][torch.isin(links[0], links[1][torch.isin(links[0], inside)])]
        if levels > links.shape[1]:
            raise AssertionError("blocks contain each other")
    return levels
