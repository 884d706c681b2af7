"""Sets, groups and graphs as inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.registry import model


class DeepSets(nn.Module):
    """``rho(sum_i phi(x_i))``, with an equivariant layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 11))
        self.each, self.all = nn.Linear(11, 6), nn.Linear(11, 6, bias=False)
        self.rho = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.phi(x).relu()
        h = torch.tanh(self.each(h) + self.all(h.mean(1, keepdim=True)))
        return self.rho(h.sum(1))


@model("deep_sets", expected={"phi": (7, 1), "phi out": (11, 1), "equivariant": (6, 1), "rho": (5, 1)})
def deep_sets():
    return DeepSets(), (torch.randn(2, 4, 3),)


class CyclicLinear(nn.Module):
    """Equivariant under the cyclic group of order 4: ``out[c, g] = sum_{i, h} w[c, i, h - g] x[i, h]``."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outs, ins, 4)), nn.Parameter(torch.empty(outs, 1))
        self.register_buffer("table", (torch.arange(4) - torch.arange(4)[:, None]) % 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oigh,bih->bog", self.weight[:, :, self.table], x) + self.bias


@model("group_equivariant", expected={"first": (7, 1), "second": (5, 1)})
def group_equivariant():
    layers = [CyclicLinear(2, 7), nn.ReLU(), CyclicLinear(7, 5), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(5, 3)), (torch.randn(2, 2, 4),)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 4]])


class GraphNet(nn.Module):
    """Two message-passing layers and a mean over nodes."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(width, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.head(self.second(self.first(x, edges).relu(), edges).relu().mean(0))


@model("gcn", needs="torch_geometric", expected={"first": (7, 1), "second": (11, 1)})
def gcn():
    from torch_geometric.nn import GCNConv

    return GraphNet(GCNConv(3, 7), GCNConv(7, 11), 11), (torch.randn(5, 3), EDGES)


@model("sage", needs="torch_geometric", expected={"first": (7, 1), "second": (11, 1)})
def sage():
    from torch_geometric.nn import SAGEConv

    return GraphNet(SAGEConv(3, 7, aggr="max"), SAGEConv(7, 11, aggr="mean"), 11), (torch.randn(5, 3), EDGES)


@model("gat", needs="torch_geometric", expected={"heads": (3, 1), "dims of a head": (4, 3), "second": (5, 1)})
def gat():
    from torch_geometric.nn import GATConv

    return GraphNet(GATConv(3, 4, heads=3), GATConv(12, 5), 5), (torch.randn(5, 3), EDGES)
