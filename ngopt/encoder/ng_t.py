r"""NG-T: attention over the edges of each neuron, with queries, keys and values modulated by the edge.

.. math::

    q_{ij} = q_i + e^q_{ij}, \quad k_{ij} = k_j + e^k_{ij}, \quad v_{ij} = v_j \odot e^s_{ij} + e^b_{ij}, \qquad
    z_i = W \sum_j \text{softmax}_j\!\left(q_{ij} \cdot k_{ij} / \sqrt{d_{head}}\right) v_{ij}

Relational attention (Diao and Loynd, ICLR 2023), with the value modulation of Kofinas et al., ICLR 2024. Attention goes
along edges alone, one parameter at a time, so that nothing is ever padded or attends to padding, and memory is that of
the edges. `ngopt.encoder.published_ng_t` has the complete-graph model as published.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange, reduce
from torch import Tensor, nn

from ngopt.encoder.relations import Relation
from ngopt.encoder.sweeps import SweepEncoder


class AttentionGather(nn.Module):
    """Sums up the edges of each row; see the module docstring.

    Args:
        width: Of node embeddings and of the result.
        edge_width: Of edge embeddings.
        attention: Width of queries, keys and values, all heads together.
        heads: Number of heads.

    Raises:
        ValueError: ``attention`` is not a multiple of ``heads``.
    """

    def __init__(self, width: int, edge_width: int, attention: int = 32, heads: int = 4) -> None:
        super().__init__()
        if attention % heads:
            raise ValueError(f"attention width {attention} is not a multiple of {heads} heads")
        self.heads, self.attention = heads, attention
        self.query = nn.Linear(width, attention)
        self.key_value = nn.Linear(width, 2 * attention)
        self.edge = nn.Linear(edge_width, 4 * attention)
        self.out = nn.Linear(attention, width)

    def forward(self, relation: Relation, nodes: Tensor, edges: Tensor) -> Tensor:  # -> [*net, row, width]
        key, value = self.key_value(nodes).chunk(2, dim=-1)
        edge_query, edge_key, edge_scale, edge_shift = self.edge(edges).chunk(4, dim=-1)
        query = relation.heads(self.query(nodes)) + edge_query
        key = relation.tails(key) + edge_key
        value = relation.tails(value) * edge_scale + edge_shift
        logits = reduce(query * key, "... (head entry) -> ... head", "sum", head=self.heads)
        share = relation.softmax(logits * (self.attention // self.heads) ** -0.5)[..., None]
        value = rearrange(value, "... (head entry) -> ... head entry", head=self.heads) * share
        return self.out(relation.total(rearrange(value, "... head entry -> ... (head entry)")))


class NGT(SweepEncoder):
    """NG-T; see the module docstring. Arguments are those of `SweepEncoder`, and ``attention`` and ``heads``."""

    def __init__(
        self, node_features: int, channels: int = 1, *, attention: int = 32, heads: int = 4, **options: Any
    ) -> None:
        super().__init__(
            lambda width, edge_width: AttentionGather(width, edge_width, attention, heads),
            node_features,
            channels,
            **options,
        )
