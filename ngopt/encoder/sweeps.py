r"""Sweeps: what NG-GNN and NG-T have in common. They differ in how a row sums up its edges (`Gather`).

A layer walks over the parameters in order, as a forward pass does, and lets the neurons that each writes to hear from
those that it reads from; then back, from the last parameter to the first. A neuron thus hears of all that comes before
it, and after it, in one layer. With ``ordered=False`` all parameters are read at once, as published, and news travels
one parameter per layer. Propagation in the order of the layers is the idea of the DNG encoder (TMLR 2026).

.. math::

    z_i &= \text{gather}_j(h_i, h_j, e_{ij}) + 2 \sum_j \hat w_{ij} C h_j / \sqrt{n_i} \\
    h &\leftarrow h + V \sigma(U\,[\text{LN}(h), z]), \qquad
    e \leftarrow e + B\, \text{SiLU}(A\,[e, h_{in}, h_{out}])

Normalisation is per node, so that a network's embeddings do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ngopt.encoder.base import EdgeFeatures, Encoder
from ngopt.encoder.codes import NODE_CODE, plain
from ngopt.encoder.embedding import ValueEmbedding, total_over_taps
from ngopt.encoder.layout import Layout, dense_layout, edge_blocks
from ngopt.encoder.normalise import compressed
from ngopt.encoder.relations import Relation, add_rows
from ngopt.graph.neural_graph import NeuralGraph

TINY = 1e-12  # in place of a root mean square that is zero
CARRY = 2.0  # of the weighted sum: about what makes it as large as what is gathered

Gather = nn.Module  # (relation, nodes [*net, node, width], edges) -> [*net, row, width]


class SweepEncoder(Encoder):
    """Embeds nodes and edges by sweeps; see the module docstring.

    Args:
        gather: Makes the module that sums up the edges of each row: ``gather(width, edge_width)``.
        node_features: Number of node features.
        channels: Values per edge entry.
        width: Of node embeddings.
        edge_width: Of edge embeddings.
        layers: Number of sweeps there and back.
        ordered: Whether a sweep takes parameters one after the other.
        dropout: Of the updates.
        frequencies: Of the Fourier features of edges; ``sigma`` their standard deviation.
        activations: Whether nodes say which functions they compute; for ablations.
    """

    def __init__(
        self,
        gather: Callable[[int, int], Gather],
        node_features: int,
        channels: int = 1,
        width: int = 64,
        edge_width: int = 16,
        layers: int = 1,
        ordered: bool = True,
        dropout: float = 0.0,
        frequencies: int = 8,
        sigma: float = 0.5,
        activations: bool = True,
    ) -> None:
        super().__init__()
        self.activations = activations
        self.width, self.edge_width, self.channels, self.ordered = width, edge_width, channels, ordered
        self.read = nn.Linear(node_features, width)
        self.code = nn.Linear(NODE_CODE, width, bias=False)
        self.edge = ValueEmbedding(channels, edge_width, frequencies, sigma)
        self.layers = nn.ModuleList(_Layer(gather, width, edge_width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        graph: NeuralGraph,
        node_features: Tensor,  # [*net, node, feature]
        edge_features: EdgeFeatures,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Encoder.forward`. All tensors may have leading axes, for networks that share the graph.

        Each channel is divided by its root mean square, then `compressed`: the scale of a parameter or a gradient does
        not matter.
        """
        layout = dense_layout(graph, node_features.device, node_features.dtype)
        blocks = edge_blocks(graph)
        lead = node_features.shape[:-2]
        values = []
        for block in blocks:
            channels = edge_features.get(block.name)
            if channels is None:
                values.append(node_features.new_zeros(*lead, *block.matrix_shape, self.channels))
            else:
                values.append(torch.stack([compressed(_unit_scale(x.to(node_features))) for x in channels], dim=-1))
        nodes, edges = self.encode(layout, node_features, values)
        return nodes, {block.name: e for block, e in zip(blocks, edges, strict=True)}

    def encode(
        self,
        layout: Layout,
        node_features: Tensor,  # [*net, node, feature]
        values: Sequence[Tensor],  # per relation, see `ValueEmbedding.forward`
    ) -> tuple[Tensor, list[Tensor]]:  # [*net, node, width], and [*net, *edge, edge_width] of each relation
        """Embed what lies in a layout."""
        h = self.read(node_features) + self.code(layout.node_codes if self.activations else plain(layout.node_codes))
        edges = [
            self.edge(x, place, relation)
            for x, place, relation in zip(values, layout.values, layout.relations, strict=True)
        ]
        weights = [total_over_taps(x[..., 0], place) for x, place in zip(values, layout.values, strict=True)]
        backwards = [relation.reversed for relation in layout.relations]
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            h = self._sweep(layer.forth, h, layout.relations, edges, weights)
            h = self._sweep(layer.back, h, backwards[::-1], edges[::-1], weights[::-1])
            if layout.links is not None:
                h = layer.members(h, layout.links)
            edges = [layer.edge(h, e, relation) for e, relation in zip(edges, layout.relations, strict=True)]
        return self.norm(h), edges

    def _sweep(
        self,
        update: _Update,
        h: Tensor,
        relations: Sequence[Relation],
        edges: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> Tensor:
        start = h
        total = torch.zeros_like(h)
        for relation, e, w in zip(relations, edges, weights, strict=True):
            source = h if self.ordered else start
            change = update(source, e, w, relation)
            if self.ordered:
                h = add_rows(h, relation.nodes, change)
            else:
                total = add_rows(total, relation.nodes, change)
        return h if self.ordered else start + total


def _unit_scale(x: Tensor) -> Tensor:  # [*net, group, row, col, tap]
    return x / x.square().mean((-4, -3, -2, -1), keepdim=True).sqrt().clamp_min(TINY)


class SineSiLU(nn.Module):
    """Sine of the first half of the features, SiLU of the second.

    Sines learn fastest on implicit networks, whose weights are all of one size. They wrap around where weights are of
    very different sizes, as in networks that were trained in many ways; there SiLU says which is larger.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first.sin(), nn.functional.silu(second)], dim=-1)


class _Layer(nn.Module):
    """One sweep there and back, and what edges and blocks learn from it."""

    def __init__(self, gather: Callable[[int, int], Gather], width: int, edge_width: int, dropout: float) -> None:
        super().__init__()
        self.forth = _Update(gather(width, edge_width), width, dropout)
        self.back = _Update(gather(width, edge_width), width, dropout)
        self.edge = _EdgeUpdate(width, edge_width)
        self.members = _LinkUpdate(width)


class _Update(nn.Module):
    """What the nodes of a relation's rows learn from its edges."""

    def __init__(self, gather: Gather, width: int, dropout: float) -> None:
        super().__init__()
        self.gather = gather
        self.norm = nn.LayerNorm(width)
        self.carried = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 2 * width), SineSiLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, edges: Tensor, weights: Tensor, relation: Relation
    ) -> Tensor:  # [*net, touched, width]
        normed = self.norm(h)
        carried = relation.weighted(weights, self.carried(normed))
        heard = relation.to_nodes(self.gather(relation, normed, edges) + CARRY * carried)
        return self.dropout(self.mlp(torch.cat([normed.index_select(-2, relation.nodes), heard], dim=-1)))


class _EdgeUpdate(nn.Module):
    """What an edge learns from both its ends."""

    def __init__(self, width: int, edge_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ends = nn.Linear(width, 2 * edge_width)
        self.own = nn.Linear(edge_width, edge_width)
        self.out = nn.Linear(edge_width, edge_width)

    def forward(self, h: Tensor, edges: Tensor, relation: Relation) -> Tensor:
        head, tail = self.ends(self.norm(h)).chunk(2, dim=-1)
        return edges + self.out(nn.functional.silu(self.own(edges) + relation.heads(head) + relation.tails(tail)))


class _LinkUpdate(nn.Module):
    """What blocks learn from their members, and members from their blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, h: Tensor, links: Relation) -> Tensor:
        for relation, linear in ((links.reversed, self.up), (links, self.down)):
            told = relation.total(relation.tails(linear(self.norm(h)))) / relation.row_sizes.to(h.dtype)
            h = add_rows(h, relation.nodes, nn.functional.silu(relation.to_nodes(told)))
        return h
