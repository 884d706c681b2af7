r"""NG-GNN: messages modulated by their edge, summed up by principal neighbourhood aggregation.

.. math::

    m_{ij} = s(e_{ij}) \odot (A h_i + B h_j) + t(e_{ij}), \qquad
    z_i = W \,[1, \log(n_i + 1)] \otimes [\sqrt{n_i}\,\text{mean}, \min, \max, \text{std}]_j\; m_{ij}

Messages are those of Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks,
ICLR 2024 (FiLM: Perez et al., 2018), aggregation is of Corso et al., 2020. What differs from the published model is in
`SweepEncoder`; `ngopt.encoder.published_ng_gnn` has the model as published.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.relations import Relation
from ngopt.encoder.sweeps import SweepEncoder

TYPICAL_DEGREE = 32.0  # amplification is relative to it


class FilmGather(nn.Module):
    """Sums up the edges of each row; see the module docstring.

    Args:
        width: Of node embeddings and of the result.
        edge_width: Of edge embeddings.
        message: Width of the messages.
    """

    def __init__(self, width: int, edge_width: int, message: int = 32) -> None:
        super().__init__()
        self.head = nn.Linear(width, message)
        self.tail = nn.Linear(width, message, bias=False)
        self.film = nn.Linear(edge_width, 2 * message)
        self.out = nn.Linear(8 * message, width)

    def forward(self, relation: Relation, nodes: Tensor, edges: Tensor) -> Tensor:  # -> [*net, row, width]
        scale, shift = self.film(edges).chunk(2, dim=-1)
        messages = scale * (relation.heads(self.head(nodes)) + relation.tails(self.tail(nodes))) + shift
        mean, low, high, std = relation.statistics(messages)
        sizes = relation.row_sizes.to(mean)
        heard = torch.cat([mean * sizes.sqrt(), low, high, std], dim=-1)
        degree = torch.log1p(sizes) / math.log1p(TYPICAL_DEGREE)
        return self.out(torch.cat([heard, heard * degree], dim=-1))


class NGGNN(SweepEncoder):
    """NG-GNN; see the module docstring. Arguments are those of `SweepEncoder`, and ``message``, the messages' width."""

    def __init__(self, node_features: int, channels: int = 1, *, message: int = 32, **options: Any) -> None:
        super().__init__(
            lambda width, edge_width: FilmGather(width, edge_width, message), node_features, channels, **options
        )
