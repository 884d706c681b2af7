"""The encoders on a GPU give what they give on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ngopt
from ngopt.encoder import metanetwork


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("encoder", "faithful"),
    [("neuron_flow", False), ("ng_gnn", False), ("ng_gnn", True), ("ng_t", False), ("ng_t", True)],
)
@pytest.mark.parametrize("moved_graph", [False, True])
def test_on_a_gpu_the_same(encoder: str, faithful: bool, moved_graph: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    graph = ngopt.trace(net, torch.randn(2, 3), scalings=True)
    params = {name: torch.randn(4, *p.shape).double() for name, p in net.named_parameters()}
    model = metanetwork(graph, encoder=encoder, faithful=faithful, sign=not faithful).double().eval()
    model.fit_statistics(graph, params)
    on_cpu = model(graph, params)
    moved = {name: p.cuda() for name, p in params.items()}
    graph = graph.to("cuda") if moved_graph else graph
    torch.testing.assert_close(model.cuda()(graph, moved).cpu(), on_cpu, rtol=1e-9, atol=1e-9)
    if not faithful:
        one_by_one = [(graph, {name: p[i] for name, p in moved.items()}) for i in range(4)]
        torch.testing.assert_close(model.mixed(one_by_one).cpu(), on_cpu, rtol=1e-9, atol=1e-9)
