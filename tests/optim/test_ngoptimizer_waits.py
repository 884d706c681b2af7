"""On a GPU that is only pretended: a step mixes no devices, and waits for nothing."""

from __future__ import annotations

import warnings
from unittest import mock

import pytest
import torch
from torch import nn

import ngopt
from ngopt.optim import stepping
from ngopt.optim.update import UpdateConfig, UpdateRule
from tests.optim.ngoptimizer_cases import graph_of, make_mlp
from tests.optim.pretended_gpu import GPU, like, pretended_gpu

STEPS = 21  # the last ten of them as all later ones: every basis turns once


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # by copy.deepcopy
@pytest.mark.parametrize("late", [True, False])
def test_a_step_does_not_wait(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gates it waits once, to learn of NaN: a control."""
    monkeypatch.setattr(stepping, "LATE", ("cuda",) if late else ())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: mock.MagicMock())
    model = make_mlp()
    graph, rule = graph_of(model), UpdateRule(UpdateConfig(dense_steps=1, controls_every=5))
    with pretended_gpu() as waits:
        params = [(name, nn.Parameter(like(value))) for name, value in model.named_parameters()]
        optimizer = ngopt.NGOptimizer(params, graph=graph, rule=rule, total_steps=100, weight_decay=0.1)
        for step in range(STEPS):
            for _, param in params:
                param.grad = like(param)
            waits.found.clear()
            waits.on_host = step
            optimizer.step()  # with controls: on this device, whether they are all zero cannot be known
            if step >= rule.config.bases_every:  # before, bases are found by eigendecompositions, which wait
                assert len(waits.found) == (0 if late else 1), (step, waits.found)
                assert all("finite.py" in found for found in waits.found)


def test_waits_are_noticed() -> None:
    with pretended_gpu() as waits, warnings.catch_warnings():
        x = torch.ones(3, device=GPU)
        x.sum().item()
        torch.ones(3).to(GPU)
        x.copy_(torch.ones(3), non_blocking=True)
        assert [found.split(":")[0] for found in waits.found] == ["value", "copy"]
        with pytest.raises(RuntimeError, match="device"):
            x + torch.ones(3)
