"""Node features: what the rows and columns of weights, gradients and momenta say about each neuron.

Reductions over a row or a column do not depend on the order inside it, so that features move with their neurons. Each
channel is divided by its tensor's root mean square: scaling the loss, or a tensor, changes nothing. Cost: a few passes
over the parameters; memory O(nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ngopt.encoder.structure import STRUCTURAL_FEATURES, structure
from ngopt.graph.neural_graph import NeuralGraph

CHANNELS = ("weight", "gradient", "momentum")
Channels = Sequence[Tensor | None]  # in the order of CHANNELS, each [group, row, col, tap]; None where there is none
VECTOR_ROLES = ("bias", "scale")
PER_CHANNEL = 2 + 2 + len(VECTOR_ROLES)  # mean and rms of the row, the same of the column, bias entry, scale entry
NODE_FEATURES = STRUCTURAL_FEATURES + len(CHANNELS) * PER_CHANNEL
TINY = 1e-12  # in place of a root mean square that is zero


def node_features(
    graph: NeuralGraph,
    channels: Mapping[str, Channels],  # block name -> weight, gradient, momentum
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:  # [node, NODE_FEATURES]
    """Features of all nodes.

    A node that stands at several rows (LSTM gates, several layers that write to it) gets their mean; likewise columns.

    Args:
        graph: The neural graph.
        channels: Matrix views of each block's weight, gradient and momentum. Missing blocks and channels count as zero.
        dtype: Number type of the features.
        device: Where the features go.
        total: Sums over ranks that have other blocks of the same network.

    Returns:
        Structural features, then six features per channel.
    """
    static = structure(graph, device)
    rows, row_index, cols, col_index = [], [], [], []
    vectors: dict[str, list[tuple[Tensor, Tensor]]] = {role: [] for role in VECTOR_ROLES}
    for block in graph.blocks:
        if block.name not in channels or block.role == "unused":
            continue
        if block.is_edge:
            row, col = _row_and_column(channels[block.name], block.matrix_shape, dtype, device)
            rows.append(row)
            cols.append(col)
            row_index.append(static.rows[block.name])
            col_index.append(static.cols[block.name])
        elif block.role in VECTOR_ROLES:
            entries = [_entries(x, block.matrix_shape, dtype, device) for x in channels[block.name]]
            vectors[block.role].append((static.rows[block.name], torch.stack(entries, dim=1)[:, :, None]))
    nodes, share = graph.num_nodes, (static.row_share.to(dtype), static.col_share.to(dtype))
    parts = [
        share[0][:, None, None] * _sum_at(nodes, 2, list(zip(row_index, rows, strict=True)), share[0]),
        share[1][:, None, None] * _sum_at(nodes, 2, list(zip(col_index, cols, strict=True)), share[1]),
        *(_sum_at(nodes, 1, pairs, share[0]) for pairs in vectors.values()),
    ]
    features = total(torch.cat(parts, dim=2))  # [node, channel, PER_CHANNEL]
    return torch.cat([static.features.to(dtype), torch.asinh(features).flatten(1)], dim=1)


def _sum_at(
    nodes: int,
    width: int,
    pairs: list[tuple[Tensor, Tensor]],  # [entry], [entry, channel, width]
    like: Tensor,
) -> Tensor:  # [node, channel, width]
    """Sum of what stands at each node."""
    zeros = like.new_zeros(nodes, len(CHANNELS), width)
    if not pairs:
        return zeros
    index, values = zip(*pairs, strict=True)
    return zeros.index_add(0, torch.cat(index), torch.cat(values))


def inverse_rms(x: Tensor) -> Tensor:  # -> []
    """One over the root mean square, and finite for zeros."""
    return x.numel() ** 0.5 / (torch.linalg.vector_norm(x) + TINY)


def row_and_column_sums(x: Tensor) -> tuple[Tensor, Tensor]:  # [group, row, col, tap] -> [group, row], [group, col]
    """Sums of rows and of columns, in the order that the CPU libraries are fast in."""
    return x.flatten(2).sum(2), x.flatten(2).sum(1).unflatten(1, x.shape[2:]).sum(2)


def _row_and_column(
    channels: Channels, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:  # [group * row, channel, 2], [group * col, channel, 2]
    """Mean (as a z-score) and root mean square of each row and column, relative to the tensor's."""
    group, row, col, tap = shape
    row_stats, col_stats = [], []
    for x in channels:
        if x is None:
            row_stats.append(torch.zeros(group * row, 2, dtype=dtype, device=device))
            col_stats.append(torch.zeros(group * col, 2, dtype=dtype, device=device))
            continue
        x = x.to(dtype)
        whole = inverse_rms(x)
        sums, squares = row_and_column_sums(x), row_and_column_sums(x.square())
        for side, (stats, count) in enumerate(((row_stats, col * tap), (col_stats, row * tap))):
            scale = whole / count**0.5
            pair = [sums[side].flatten() * scale, squares[side].flatten().sqrt() * scale]
            stats.append(torch.stack(pair, dim=1).to(device))
    return torch.stack(row_stats, dim=1), torch.stack(col_stats, dim=1)


def _entries(
    x: Tensor | None, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device | str
) -> Tensor:  # [group * row]
    """Entries of a vector relative to its root mean square; the mean over taps where there are several."""
    if x is None:
        return torch.zeros(shape[0] * shape[1], dtype=dtype, device=device)
    x = x.to(dtype)
    return (x.mean((2, 3)).flatten() * inverse_rms(x)).to(device)
