"""Readouts: from embeddings to one vector per network (invariant), or to new values of all parameters (equivariant)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ngopt.encoder.codes import BLOCK_CODE, TAP_CODE
from ngopt.encoder.layout import Layout, Values
from ngopt.encoder.relations import Relation, spread
from ngopt.extras import extra


class InvariantReadout(nn.Module):
    """One vector per network: each layer is summed up on its own, then all layers, so that wide ones count no more.

    Mean and standard deviation over the neurons that a parameter writes to; over parameters the mean of both, and least
    and greatest mean; also the means over inputs and outputs; then an MLP.

    Args:
        width: Of node embeddings.
        outputs: Size of the result.
        dropout: Before the last layer.
    """

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(6 * width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, outputs)
        )

    def forward(self, nodes: Tensor, layout: Layout) -> Tensor:  # [*net, node, width] -> [*net, outputs]
        inputs, outputs = (_Some(layout, chosen).mean(nodes) for chosen in (layout.inputs, layout.outputs))
        if not layout.relations:  # networks without weights
            return self.mlp(torch.cat([*[torch.zeros_like(outputs)] * 4, inputs, outputs], dim=-1))
        layers = [_Some(layout, relation.nodes) for relation in layout.relations]
        there = torch.stack([layer.there() for layer in layers], dim=-2)  # [*net, layer, 1]
        moments = torch.cat([nodes, nodes.square()], dim=-1)
        means, squares = torch.stack([layer.mean(moments) for layer in layers], dim=-2).chunk(2, dim=-1)  # by layer
        spreads = spread(means, squares)
        share = there / there.sum(-2, keepdim=True).clamp_min(1)
        least = means.masked_fill(there == 0, torch.inf).amin(-2)
        greatest = means.masked_fill(there == 0, -torch.inf).amax(-2)
        some = there.amax(-2) > 0  # in a mixture there may be a network without weights
        pooled = [(means * share).sum(-2), (spreads * share).sum(-2), least.where(some, 0), greatest.where(some, 0)]
        return self.mlp(torch.cat([*pooled, inputs, outputs], dim=-1))


class _Some:
    """Some nodes of each network of a layout."""

    def __init__(self, layout: Layout, chosen: Tensor) -> None:
        self.layout, self.chosen = layout, chosen
        self.network = None if layout.network is None else layout.network[chosen]

    def there(self) -> Tensor:  # [*net, 1]
        """One where a network has any of them, else zero."""
        if self.network is None:
            return self.layout.node_codes.new_full((1,), float(len(self.chosen) > 0))
        found = torch.bincount(self.network, minlength=self.layout.networks) > 0
        return found[:, None].to(self.layout.node_codes.dtype)

    def mean(self, nodes: Tensor) -> Tensor:  # [*net, node, d] -> [*net, d]
        """Zero for networks without any."""
        x = nodes.index_select(-2, self.chosen)
        if self.network is not None:
            with extra("encoders", "reading networks of several architectures"):
                from torch_geometric.utils import scatter  # takes seconds to import

            return scatter(x, self.network, dim=0, dim_size=self.layout.networks, reduce="mean")
        return x.mean(-2) if len(self.chosen) else nodes.new_zeros(*nodes.shape[:-2], nodes.shape[-1])


class EditReadout(nn.Module):
    r"""A change for every entry of every parameter, in units of the parameter's own scale.

    :math:`\Delta w_t = \epsilon\, V\, [(1 + B t) \odot \text{SiLU}(W_e e + W_r h_{out} + W_c h_{in})]`, with a learned
    :math:`\epsilon` that starts small; parameters that belong to nodes have no edge and one node.

    Args:
        width: Of node embeddings.
        edge_width: Of edge embeddings.
        copies: Parameter sets to emit for each network.
        scale: Initial :math:`\epsilon`. With zero nothing is changed, exactly.
    """

    def __init__(self, width: int, edge_width: int, copies: int = 1, scale: float = 0.01) -> None:
        super().__init__()
        hidden = 2 * edge_width
        self.own = nn.Linear(edge_width, hidden)
        self.ends = nn.Linear(width, 2 * hidden)
        self.tap = nn.Linear(TAP_CODE, hidden, bias=False)
        self.out = nn.Linear(hidden, copies)
        self.node = nn.Linear(width, width)
        self.code = nn.Linear(BLOCK_CODE, width)
        self.node_tap = nn.Linear(TAP_CODE, width, bias=False)
        self.node_out = nn.Linear(width, copies)
        self.scale = nn.Parameter(torch.tensor(scale))

    def edges(self, nodes: Tensor, edges: Tensor, relation: Relation, place: Values) -> Tensor:
        """Changes of a relation's entries: ``[*net, *edge, tap, copy]``, or ``[entry, copy]`` in a list."""
        head, tail = self.ends(nodes).chunk(2, dim=-1)
        hidden = nn.functional.silu(self.own(edges) + relation.heads(head) + relation.tails(tail))
        return self.scale * self.out(_per_tap(hidden, self.tap(place.taps), place))

    def vectors(self, nodes: Tensor, row_nodes: Tensor, place: Values) -> Tensor:
        """Changes of parameters that belong to nodes: ``[*net, row, tap, copy]``, or ``[entry, copy]`` in a list."""
        hidden = nn.functional.silu(self.node(nodes).index_select(-2, row_nodes) + self.code(place.rows))
        return self.scale * self.node_out(_per_tap(hidden, self.node_tap(place.taps), place))


def _per_tap(hidden: Tensor, tap: Tensor, place: Values) -> Tensor:
    if place.entry_edge is None:
        return hidden.unsqueeze(-2) * (1 + tap)
    return hidden[place.entry_edge] * (1 + tap)
