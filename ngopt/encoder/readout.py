"""Readouts: from embeddings to one vector per network (invariant), or to new values of all parameters (equivariant)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ngopt.encoder.codes import BLOCK_CODE, TAP_CODE
from ngopt.encoder.layout import Layout, Values
from ngopt.encoder.relations import Relation


class InvariantReadout(nn.Module):
    """One vector per network: mean and maximum over hidden neurons, mean over outputs, then an MLP.

    Args:
        width: Of node embeddings.
        outputs: Size of the result.
        dropout: Before the last layer.
    """

    def __init__(self, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * width, outputs)
        )

    def forward(self, nodes: Tensor, layout: Layout) -> Tensor:  # [*net, node, width] -> [*net, outputs]
        hidden, outputs = (_Pool(layout, mask) for mask in (layout.neurons, layout.outputs))
        return self.mlp(torch.cat([hidden(nodes, "mean"), hidden(nodes, "max"), outputs(nodes, "mean")], dim=-1))


class _Pool:
    """Reduces some nodes of each network; zero for networks without any."""

    def __init__(self, layout: Layout, mask: Tensor) -> None:
        self.chosen = mask.nonzero().flatten()
        self.network = None if layout.network is None else layout.network[self.chosen]
        self.networks = layout.networks

    def __call__(self, nodes: Tensor, how: str) -> Tensor:
        x = nodes.index_select(-2, self.chosen)
        if self.network is not None:
            from torch_geometric.utils import scatter  # takes seconds to import

            return scatter(x, self.network, dim=0, dim_size=self.networks, reduce=how)
        if not len(self.chosen):
            return nodes.new_zeros(*nodes.shape[:-2], nodes.shape[-1])
        return x.mean(-2) if how == "mean" else x.amax(-2)


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
