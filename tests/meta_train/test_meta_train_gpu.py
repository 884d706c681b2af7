"""Meta-training on a GPU: the same pieces as on a CPU, up to rounding."""

from __future__ import annotations

import pytest
import torch

from meta_train.inner import make_step, start
from meta_train.rules import NeuralGraphRule
from meta_train.tasks import draw
from meta_train.unroll import unroll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_the_same_losses_as_on_a_cpu() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        rule, task = NeuralGraphRule().to(device), draw("mlp", 0)
        stack = start(rule, task, count=3, horizon=20, seed=0)
        _, found = unroll(make_step(rule, task), dict(rule.named_parameters()), task, stack, 10)
        losses.append(found.detach().cpu())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
