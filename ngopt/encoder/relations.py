"""Relations: the edges of one parameter, or of the k-th parameter of every network in a mixed batch.

Encoders are written once, against four operations of a relation: gather node embeddings at its edges' heads or tails,
reduce over the edges of a row, softmax over them, and scatter rows to nodes. `BlockEdges` does this for one block as
dense broadcasts (networks of one architecture, stacked), `ListEdges` on a flat list with PyG's scatter (any mixture).
Edges run from columns (in) to rows (out); `reversed` swaps the two, so that each operation is written for rows alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.extras import extra

STD_FLOOR = 1e-5  # under the root, so that the gradient of a standard deviation of zero is finite


def spread(mean: Tensor, square: Tensor) -> Tensor:
    """The standard deviation, from a mean and a mean square."""
    return ((square - mean.square()).clamp_min(0) + STD_FLOOR).sqrt()


def add_rows(target: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """``target`` with ``rows`` added at ``index`` of its last but one axis, in the number type of ``target``."""
    return target.index_add(-2, index, rows.to(target.dtype))  # autocast leaves `index_add` alone


class Relation(ABC):
    """Edges that are processed together. Node tensors are ``[*net, node, d]``, edge tensors ``[*net, *edge, d]``."""

    row_nodes: Tensor  # [row]: the node that each row belongs to
    nodes: Tensor  # [touched]: the different ones of them
    row_places: Tensor  # [row]: where in `nodes`
    row_share: Tensor  # [row, 1]: one over the number of rows of the same node
    row_sizes: Tensor  # [row, 1]: edges of each row
    reversed: Relation

    def to_nodes(self, rows: Tensor) -> Tensor:  # [*net, row, d] -> [*net, touched, d]
        """Mean over the rows of each node (gates of an LSTM, query and key)."""
        if len(self.nodes) == len(self.row_nodes) and self.in_order:
            return rows
        total = rows.new_zeros(*rows.shape[:-2], len(self.nodes), rows.shape[-1])
        return add_rows(total, self.row_places, rows * self.row_share.to(rows.dtype))

    in_order: bool  # whether row r is the r-th of `nodes`

    @abstractmethod
    def heads(self, nodes: Tensor) -> Tensor:
        """Each edge's row node; broadcasts against edges."""

    @abstractmethod
    def tails(self, nodes: Tensor) -> Tensor:
        """Each edge's column node; broadcasts against edges."""

    @abstractmethod
    def at_rows(self, rows: Tensor) -> Tensor:  # [*net, row, d] -> broadcasts against edges
        """Each edge's row."""

    @abstractmethod
    def total(self, messages: Tensor) -> Tensor:  # edges -> [*net, row, d]
        """Sum over the edges of each row."""

    @abstractmethod
    def weighted(self, weights: Tensor, nodes: Tensor) -> Tensor:  # [*net, *edge], [*net, node, d] -> [*net, row, d]
        """Sum of the column nodes of each row, weighted, over the root of their number."""

    @abstractmethod
    def moments(self, messages: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # edges -> [*net, row, d], each
        """Mean, minimum, maximum and mean square over the edges of each row."""

    def statistics(self, messages: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # edges -> [*net, row, d], each
        """Mean, minimum, maximum and standard deviation over the edges of each row."""
        mean, low, high, square = self.moments(messages)
        return mean, low, high, spread(mean, square)

    @abstractmethod
    def softmax(self, logits: Tensor) -> Tensor:  # edges -> edges
        """Normalise over the edges of each row."""


@dataclass(frozen=True)
class _Side:
    """Rows (or columns) of a relation, and their nodes."""

    row_nodes: Tensor
    nodes: Tensor
    row_places: Tensor
    row_share: Tensor
    in_order: bool

    @classmethod
    def of(cls, row_nodes: Tensor) -> _Side:
        nodes, places, counts = torch.unique(row_nodes, return_inverse=True, return_counts=True)
        in_order = len(nodes) == len(row_nodes) and bool((nodes == row_nodes).all())
        return cls(row_nodes, nodes, places, 1.0 / counts[places][:, None], in_order)


class BlockEdges(Relation):
    """All entries of one block, dense; edge tensors are ``[*net, group, row, col, d]``."""

    def __init__(self, rows: Tensor, cols: Tensor) -> None:  # [group, row], [group, col] nodes
        self._fill(_Side.of(rows.flatten()), _Side.of(cols.flatten()), tuple(rows.shape), tuple(cols.shape), -2)
        self.reversed = object.__new__(BlockEdges)
        self.reversed._fill(self._cols, self._rows, tuple(cols.shape), tuple(rows.shape), -3)
        self.reversed.reversed = self

    def _fill(self, rows: _Side, cols: _Side, row_shape: tuple, col_shape: tuple, axis: int) -> None:
        self._rows, self._cols, self._row_shape, self._col_shape, self._axis = rows, cols, row_shape, col_shape, axis
        for name, value in vars(rows).items():
            setattr(self, name, value)
        self.row_sizes = torch.full((len(rows.row_nodes), 1), float(col_shape[1]), device=rows.row_nodes.device)

    def to(self, device: torch.device) -> BlockEdges:
        """The same with its index tensors on a device."""
        if self.row_nodes.device == device:
            return self
        rows, cols = (side.row_nodes.to(device) for side in (self._rows, self._cols))
        return BlockEdges(rows.view(self._row_shape), cols.view(self._col_shape))

    def heads(self, nodes: Tensor) -> Tensor:
        return self.at_rows(nodes.index_select(-2, self._rows.row_nodes))

    def tails(self, nodes: Tensor) -> Tensor:
        cols = nodes.index_select(-2, self._cols.row_nodes)
        return cols.unflatten(-2, self._col_shape).unsqueeze(-5 - self._axis)

    def at_rows(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-2, self._row_shape).unsqueeze(self._axis)

    def total(self, messages: Tensor) -> Tensor:
        return messages.sum(self._axis).flatten(-3, -2)

    def weighted(self, weights: Tensor, nodes: Tensor) -> Tensor:
        cols = nodes.index_select(-2, self._cols.row_nodes).unflatten(-2, self._col_shape)
        rows = (weights if self._axis == -2 else weights.mT) @ cols
        return rows.flatten(-3, -2) * self._col_shape[1] ** -0.5

    def moments(self, messages: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        low, high = messages.min(self._axis).values, messages.max(self._axis).values
        mean, square = messages.mean(self._axis), messages.square().mean(self._axis)
        return mean.flatten(-3, -2), low.flatten(-3, -2), high.flatten(-3, -2), square.flatten(-3, -2)

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(self._axis)


class ListEdges(Relation):
    """A list of edges of any number of networks; edge tensors are ``[*net, edge, d]``.

    Args:
        edge_rows: Row of each edge, ``[edge]``; likewise ``edge_cols``.
        row_nodes: Node of each row, ``[row]``; likewise ``col_nodes``.
    """

    def __init__(self, edge_rows: Tensor, edge_cols: Tensor, row_nodes: Tensor, col_nodes: Tensor) -> None:
        self._fill(edge_rows, edge_cols, _Side.of(row_nodes), _Side.of(col_nodes))
        self.reversed = object.__new__(ListEdges)
        self.reversed._fill(edge_cols, edge_rows, self._cols, self._rows)
        self.reversed.reversed = self

    def _fill(self, edge_rows: Tensor, edge_cols: Tensor, rows: _Side, cols: _Side) -> None:
        self._edge_rows, self._edge_cols, self._rows, self._cols = edge_rows, edge_cols, rows, cols
        for name, value in vars(rows).items():
            setattr(self, name, value)
        self.row_sizes = torch.bincount(edge_rows, minlength=len(rows.row_nodes))[:, None].double()

    def heads(self, nodes: Tensor) -> Tensor:
        return nodes.index_select(-2, self._rows.row_nodes[self._edge_rows])

    def tails(self, nodes: Tensor) -> Tensor:
        return nodes.index_select(-2, self._cols.row_nodes[self._edge_cols])

    def at_rows(self, rows: Tensor) -> Tensor:
        return rows.index_select(-2, self._edge_rows)

    def _reduce(self, messages: Tensor, how: str) -> Tensor:
        with extra("encoders", "reading networks of several architectures"):
            from torch_geometric.utils import scatter  # takes seconds to import

        return scatter(messages, self._edge_rows, dim=-2, dim_size=len(self.row_nodes), reduce=how)

    def total(self, messages: Tensor) -> Tensor:
        return self._reduce(messages, "sum")

    def weighted(self, weights: Tensor, nodes: Tensor) -> Tensor:
        return self.total(weights[..., None] * self.tails(nodes)) * self.row_sizes.to(nodes.dtype) ** -0.5

    def moments(self, messages: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        low, high = self._reduce(messages, "min"), self._reduce(messages, "max")
        return self._reduce(messages, "mean"), low, high, self._reduce(messages.square(), "mean")

    def softmax(self, logits: Tensor) -> Tensor:
        with extra("encoders", "reading networks of several architectures"):
            from torch_geometric.utils import softmax

        return softmax(logits, self._edge_rows, num_nodes=len(self.row_nodes), dim=logits.ndim - 2)
