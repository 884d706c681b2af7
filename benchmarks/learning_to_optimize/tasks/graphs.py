"""A network on graphs: all graphs of up to seven nodes, and how many spanning trees they have."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import MSE, Data, Task, register
from benchmarks.learning_to_optimize.tasks.sources import SEED, parted

NODES = 7


class GraphNetwork(nn.Module):
    """Rounds of messages along edges (GIN), then the sum over nodes and an MLP."""

    def __init__(self, width: int = 24, rounds: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(1, width)
        self.rounds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, width)) for _ in range(rounds)
        )
        self.own = nn.Parameter(torch.zeros(rounds))  # how much more a node hears itself
        self.leave = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, 1))

    def forward(self, adjacency: Tensor) -> Tensor:  # [b n n] -> [b 1]
        """One number per graph."""
        nodes = F.elu(self.enter(adjacency.sum(-1, keepdim=True) / NODES))
        for own, update in zip(self.own, self.rounds, strict=True):
            nodes = nodes + update((1 + own) * nodes + adjacency @ nodes / NODES)
        return self.leave(nodes.mean(1))


@lru_cache(maxsize=1)
def atlas() -> Data:
    """Connected graphs of networkx's atlas, and the logarithm of the number of their spanning trees, standardised.

    Adjacency matrices are filled up with nodes that have no edges, and nodes are in a random order.
    """
    import networkx

    generator = np.random.default_rng(SEED)
    matrices, counts = [], []
    for graph in networkx.graph_atlas_g():
        if len(graph) < 2 or not networkx.is_connected(graph):
            continue
        adjacency = networkx.to_numpy_array(graph)
        laplacian = np.diag(adjacency.sum(1)) - adjacency
        counts.append(np.log(np.linalg.det(laplacian[1:, 1:])))  # Kirchhoff
        whole = np.zeros((NODES, NODES))
        whole[: len(graph), : len(graph)] = adjacency
        order = generator.permutation(NODES)
        matrices.append(whole[order][:, order])
    order = generator.permutation(len(counts))
    x, y = (torch.from_numpy(np.array(part)[order]).float() for part in (matrices, counts))
    return parted(x, ((y - y.mean()) / y.std())[:, None])


register(
    Task(
        "graph-network",
        "unseen",
        "graph network of 2 rounds of 24, spanning trees of small graphs",
        "networkx's graph atlas",
        GraphNetwork,
        atlas,
        32,
        objective=F.mse_loss,
        metric=MSE,
    )
)
