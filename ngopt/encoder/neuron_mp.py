r"""NeuronMP: message passing on neurons alone, with the parameter matrices themselves as the adjacency.

A round lets every neuron hear from the neurons that it reads from and from those that it writes to, once through each
channel ``X`` (weight, momentum) of each block:

.. math::

    d_i = \sum_j \hat X_{ij} s_j, \qquad u_j = \sum_i \hat X_{ij} s_i, \qquad s = S h, \qquad
    h \leftarrow \tanh(A\,[h, d, u, \text{members}, \text{block}])

with :math:`\hat X = X / (rms(X) \sqrt{fan})`. Both sums are matrix products with a thin matrix, so that a round costs
about what a forward pass of a few examples does, and memory is O(nodes): no edge ever gets an embedding. Relabelling
neurons permutes the rows and columns of every ``X`` and the rows of ``h`` alike, hence exact equivariance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.base import EdgeFeatures, Encoder
from ngopt.encoder.features import inverse_rms
from ngopt.encoder.structure import Structure, structure
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock


class NeuronMP(Encoder):
    """Message passing on neurons; see the module docstring.

    Args:
        node_features: Number of node features.
        channels: Number of channels per block.
        embedding: Width of the node embeddings.
        message: Width of the messages.
        rounds: Rounds of message passing; 0 for an encoder that sees each neuron alone.
    """

    def __init__(
        self, node_features: int, channels: int = 2, embedding: int = 16, message: int = 8, rounds: int = 2
    ) -> None:
        super().__init__()
        self.channels = channels
        self.read = nn.Linear(node_features, embedding)
        self.send = nn.ModuleList(nn.Linear(embedding, message, bias=False) for _ in range(rounds))
        self.merge = nn.ModuleList(
            nn.Linear(embedding + 2 * channels * message + 2 * message, embedding) for _ in range(rounds)
        )

    def forward(
        self,
        graph: NeuralGraph,
        node_features: Tensor,  # [node, feature]
        edge_features: EdgeFeatures,
        *,
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> tuple[Tensor, None]:
        """See `Encoder.forward`. There are no edge embeddings.

        ``total`` sums over ranks that have other blocks of the same network.
        """
        static = structure(graph, node_features.device)
        blocks = [b for b in graph.blocks if b.is_edge and b.role != "unused" and b.name in edge_features]
        scales = {b.name: [inverse_rms(x.to(node_features.dtype)) for x in edge_features[b.name]] for b in blocks}
        h = torch.tanh(self.read(node_features))
        for send, merge in zip(self.send, self.merge, strict=True):
            s = send(h)
            down, up = self._along_edges(static, blocks, edge_features, scales, s, total)
            h = torch.tanh(merge(torch.cat([h, down, up, *_along_links(static, s)], dim=1)))
        return h, None

    def _along_edges(
        self,
        static: Structure,
        blocks: list[ParamBlock],
        edge_features: EdgeFeatures,
        scales: dict[str, list[Tensor]],
        s: Tensor,  # [node, message]
        total: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # [node, channel * message], twice
        """What each node hears from the nodes that it reads from (down), and that it writes to (up)."""
        down, up, row_index, col_index = [], [], [], []
        for block in blocks:
            rows, cols = static.rows[block.name], static.cols[block.name]
            heard = [
                _through_block(x, scale, s, rows, cols)
                for x, scale in zip(edge_features[block.name], scales[block.name], strict=True)
            ]
            down.append(torch.cat([d for d, _ in heard], dim=1).to(s.device))
            up.append(torch.cat([u for _, u in heard], dim=1).to(s.device))
            row_index.append(rows)
            col_index.append(cols)
        zeros = s.new_zeros(s.shape[0], self.channels * s.shape[1])
        if blocks:
            heard_down = zeros.index_add(0, torch.cat(row_index), torch.cat(down))
            heard_up = zeros.index_add(0, torch.cat(col_index), torch.cat(up))
        else:
            heard_down = heard_up = zeros
        total_down, total_up = total(torch.stack([heard_down, heard_up]))
        return total_down * static.row_share.to(s)[:, None], total_up * static.col_share.to(s)[:, None]


def _through_block(
    x: Tensor,  # [group, row, col, tap]
    scale: Tensor,  # []
    s: Tensor,  # [node, message]
    rows: Tensor,  # [group * row]
    cols: Tensor,  # [group * col]
) -> tuple[Tensor, Tensor]:  # [group * row, message], [group * col, message]
    """Messages through one matrix, both ways; taps of a kernel are summed over."""
    group, row, col, tap = x.shape
    matrix = x.to(s.dtype).reshape(group, row, col * tap)
    s = s.to(matrix.device)
    sent = s[cols.to(s.device)].reshape(group, col, 1, -1).expand(group, col, tap, -1).reshape(group, col * tap, -1)
    heard = s[rows.to(s.device)].reshape(group, row, -1)
    # Products with a thin matrix: the transposed form is over three times as fast in the CPU libraries.
    down = torch.bmm(sent.mT, matrix.mT).mT * (scale / (col * tap) ** 0.5)  # [group, row, message]
    up = torch.bmm(heard.mT, matrix).mT * (scale / (row * tap) ** 0.5)
    up = up.reshape(group, col, tap, -1).sum(2)
    return _tame(down).flatten(0, 1), _tame(up).flatten(0, 1)


def _tame(message: Tensor) -> Tensor:
    """Keep messages of a nearly rank-one matrix, whose sums add up coherently, at the scale of all others."""
    return message * torch.rsqrt(1.0 + message.square().mean())


def _along_links(static: Structure, s: Tensor) -> tuple[Tensor, Tensor]:  # [node, message], twice
    """Mean over the members of a block, and over the blocks of a member."""
    node, block = static.links
    zeros = torch.zeros_like(s)
    members = zeros.index_add(0, block, s[node]) * static.member_share.to(s)[:, None]
    blocks = zeros.index_add(0, node, s[block]) * static.block_share.to(s)[:, None]
    return members, blocks


class ShuffledMP(NeuronMP):
    """The control of an ablation: as many parameters and as much work, but what a neuron says is another one's.

    Which one is drawn by chance, once for all networks of a size. It is not equivariant.
    """

    def forward(self, graph: NeuralGraph, *given: Any, **options: Any) -> tuple[Tensor, None]:
        """See `NeuronMP.forward`."""
        embeddings, _ = super().forward(graph, *given, **options)
        order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(graph.num_nodes))
        return embeddings[order.to(embeddings.device)], None
