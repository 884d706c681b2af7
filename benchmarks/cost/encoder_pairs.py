"""The rival of `benchmarks.cost.encoder`: NG-GNN and NG-T on the complete grid of nodes, as published code runs them.

The layer, its parameters and its numbers are those of a `Metanetwork`; only the place of edges differs. Here they are
``[net, N, N, d]`` over all pairs of nodes, with a mask that says which pairs are edges. What edges do, all pairs do:
values are embedded, kernels padded to the largest, messages and attention computed, edges updated.

It is as fast as we could make it with the grid. A sweep that takes parameters one after the other works on the rows of
the grid whose neurons the parameter writes to (columns on the way back), and so covers the grid once, as a sweep
that takes all parameters at once does. Masks and codes are made once per graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from ngopt.encoder import Metanetwork
from ngopt.encoder.codes import codes
from ngopt.encoder.layout import dense_layout, edge_blocks, vector_blocks
from ngopt.encoder.ng_gnn import TYPICAL_DEGREE, FilmGather
from ngopt.encoder.ng_t import AttentionGather
from ngopt.encoder.relations import STD_FLOOR
from ngopt.encoder.sweeps import CARRY
from ngopt.graph.neural_graph import NeuralGraph


class PairReader(nn.Module):
    """Reads networks as ``model(graph, params)`` does, over all pairs of nodes.

    Args:
        model: NG-GNN or NG-T with a vector per network. Its parameters are used, not copied.
        graph: Of an MLP or a CNN: a chain, in which one parameter writes to a neuron and one reads from it.

    Raises:
        ValueError: The graph is not such a chain; a grid has room for one edge per pair.
    """

    mask: Tensor  # [N, N]: row node, column node
    tap_count: Tensor  # [N, N, 1]
    has_tap: Tensor  # [N, N, tap, 1]
    tap_codes: Tensor  # [N, N, tap, TAP_CODE]
    row_codes: Tensor  # [N, N, BLOCK_CODE]
    col_codes: Tensor  # [N, N, PLACE]

    def __init__(self, model: Metanetwork, graph: NeuralGraph) -> None:
        super().__init__()
        self.model, self.graph = model, graph
        self.blocks, known = edge_blocks(graph), codes(graph)
        self.rows = [_span(block.row_nodes) for block in self.blocks]
        self.cols = [_span(block.col_nodes) for block in self.blocks]
        grouped = any(block.matrix_shape[0] > 1 for block in self.blocks)
        if grouped or graph.links.shape[1] or not _in_a_row(self.rows) or not _in_a_row(self.cols):
            raise ValueError("the graph is not a chain of layers: a grid has room for one edge per pair of nodes")
        self.taps = max(block.matrix_shape[3] for block in self.blocks)
        tables = {
            "mask": [torch.ones(1, 1, dtype=torch.bool)] * len(self.blocks),
            "tap_count": [torch.full((1, 1, 1), float(block.matrix_shape[3])) for block in self.blocks],
            "has_tap": [self._padded(torch.ones(1, 1, block.matrix_shape[3], 1)) for block in self.blocks],
            "tap_codes": [self._padded(known.taps[block.name])[None, None] for block in self.blocks],
            "row_codes": [known.rows[block.name][:, None] for block in self.blocks],
            "col_codes": [known.cols[block.name][None] for block in self.blocks],
        }
        for name, parts in tables.items():
            grid = parts[0].new_zeros(graph.num_nodes, graph.num_nodes, *parts[0].shape[2:])
            for rows, cols, part in zip(self.rows, self.cols, parts, strict=True):
                grid[rows, cols] = part
            self.register_buffer(name, grid, persistent=False)

    def forward(self, params: Mapping[str, Tensor]) -> Tensor:  # name -> [net, *shape]; -> [net, output]
        """Read networks of one architecture, stacked."""
        encoder, scaled = self.model.encoder, self.model._scaled(self.graph, params)
        layout = dense_layout(self.graph, self.mask.device).to(self.tap_count.dtype)
        vectors = [scaled[block.name].flatten(1, 3).unsqueeze(-1) for block in vector_blocks(self.graph)]
        features = self.model._features(layout, vectors, (len(next(iter(params.values()))),))
        values = features.new_zeros(len(features), *self.mask.shape, self.taps)  # [net, N, N, tap]
        for block, rows, cols in zip(self.blocks, self.rows, self.cols, strict=True):
            values[:, rows, cols] = self._padded(scaled[block.name][:, 0].unsqueeze(-1)).squeeze(-1)
        h, e = encoder.read(features) + encoder.code(layout.node_codes), self._embedded(values)
        weights = values.sum(-1) * self.tap_count.clamp_min(1).squeeze(-1) ** -0.5
        forth, back = (self.rows, self.cols[::-1]) if encoder.ordered else ([_hull(self.rows)], [_hull(self.cols)])
        for layer in encoder.layers:
            h = _sweep(layer.forth, h, e, weights, self.mask, forth)
            h = _sweep(layer.back, h, e.transpose(1, 2), weights.mT, self.mask.mT, back)
            edge = layer.edge
            head, tail = edge.ends(edge.norm(h)).chunk(2, dim=-1)
            e = e + edge.out(nn.functional.silu(edge.own(e) + head[:, :, None] + tail[:, None]))
        return self.model.readout(encoder.norm(h), layout)

    def _embedded(self, values: Tensor) -> Tensor:  # [net, N, N, tap] -> [net, N, N, edge_width]
        """What `ValueEmbedding` does."""
        edge = self.model.encoder.edge
        angles = values[..., None] * edge.frequency
        features = torch.cat([values[..., None], angles.sin(), angles.cos()], dim=-1)
        features = (features * ((1 + edge.tap(self.tap_codes)) * self.has_tap)).sum(-2)
        features = features * self.tap_count.clamp_min(1) ** -0.5
        scale, shift = edge.row(self.row_codes).chunk(2, dim=-1)
        return edge.mix(features) * (1 + scale) + (shift + edge.col(self.col_codes))

    def _padded(self, x: Tensor) -> Tensor:  # [..., tap of the block, d] -> [..., tap, d]
        missing = self.taps - x.shape[-2]
        return nn.functional.pad(x, (0, 0, missing // 2, missing - missing // 2))


def _sweep(update: nn.Module, h: Tensor, e: Tensor, weights: Tensor, mask: Tensor, spans: list[slice]) -> Tensor:
    """The nodes of each span hear from all others: ``h`` [net, N, width], ``e`` [net, N, N, d], rows hear columns."""
    gather = update.gather
    work = _film if isinstance(gather, FilmGather) else _attention
    for span in spans:
        normed, here = update.norm(h), mask[span]
        carried = weights[:, span] @ update.carried(normed) * here.sum(1, keepdim=True).to(h) ** -0.5
        heard = work(gather, normed, e[:, span], here, span) + CARRY * carried
        change = update.mlp(torch.cat([normed[:, span], heard], dim=-1))
        h = torch.cat([h[:, : span.start], h[:, span] + change, h[:, span.stop :]], dim=1)
    return h


def _film(gather: FilmGather, nodes: Tensor, edges: Tensor, mask: Tensor, span: slice) -> Tensor:
    """What `FilmGather` does: ``edges`` [net, row, N, d] and ``mask`` [row, N] -> [net, row, width]."""
    scale, shift = gather.film(edges).chunk(2, dim=-1)
    messages = scale * (gather.head(nodes)[:, span, None] + gather.tail(nodes)[:, None]) + shift
    sizes, off = mask.sum(1, keepdim=True).to(nodes), ~mask[..., None]
    kept = messages.masked_fill(off, 0.0)
    mean, square = kept.sum(2) / sizes, kept.square().sum(2) / sizes
    low = messages.masked_fill(off, torch.inf).min(2).values
    high = messages.masked_fill(off, -torch.inf).max(2).values
    std = ((square - mean.square()).clamp_min(0) + STD_FLOOR).sqrt()
    heard = torch.cat([mean * sizes.sqrt(), low, high, std], dim=-1)
    degree = torch.log1p(sizes) / math.log1p(TYPICAL_DEGREE)
    return gather.out(torch.cat([heard, heard * degree], dim=-1))


def _attention(gather: AttentionGather, nodes: Tensor, edges: Tensor, mask: Tensor, span: slice) -> Tensor:
    """What `AttentionGather` does: ``edges`` [net, row, N, d] and ``mask`` [row, N] -> [net, row, width]."""
    key, value = gather.key_value(nodes)[:, None].chunk(2, dim=-1)
    edge_query, edge_key, edge_scale, edge_shift = gather.edge(edges).chunk(4, dim=-1)
    query = gather.query(nodes)[:, span, None] + edge_query
    split = (gather.heads, gather.attention // gather.heads)
    logits = (query * (key + edge_key)).unflatten(-1, split).sum(-1) * split[1] ** -0.5
    share = logits.masked_fill(~mask[..., None], -torch.inf).softmax(2)[..., None]
    mixed = (value * edge_scale + edge_shift).unflatten(-1, split)
    return gather.out((mixed * share).sum(2).flatten(-2))


def _span(nodes: Tensor | None) -> slice:
    """The nodes of a block's rows, or columns, as a slice."""
    assert nodes is not None
    flat = nodes.flatten()
    span = slice(int(flat[0]), int(flat[0]) + len(flat))
    if not torch.equal(flat.cpu(), torch.arange(span.start, span.stop)):
        raise ValueError("the graph is not a chain of layers: the neurons of a parameter do not lie side by side")
    return span


def _in_a_row(spans: list[slice]) -> bool:
    return all(a.stop == b.start for a, b in pairwise(spans))


def _hull(spans: list[slice]) -> slice:
    return slice(spans[0].start, spans[-1].stop)
