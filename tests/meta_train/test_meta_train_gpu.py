"""Meta-training on a GPU: the same pieces as on a CPU, up to rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from meta_train.inner import Stack, make_step, start
from meta_train.rules import LearnedRule, NeuralGraphRule
from meta_train.tasks import Task, draw
from meta_train.unroll import unroll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def in_double(rule: LearnedRule, task: Task, stack: Stack) -> Stack:
    """A stack before its first step, in float64: within ten steps, rounding in float32 grows to a percent."""
    weights = {name: x.double() for name, x in stack.weights.items()}
    state = {name: rule.init_state(task.graph, name, x[0]) for name, x in weights.items()}
    count = stack.count
    state = {n: {key: x.expand(count, *x.shape).clone() for key, x in own.items()} for n, own in state.items()}
    return replace(stack, weights=weights, state=state)


def test_the_same_losses_as_on_a_cpu() -> None:
    losses = []
    for device in ("cpu", "cuda"):
        rule, task = NeuralGraphRule().double().to(device), draw("tabular", 0)
        stack = in_double(rule, task, start(rule, task, count=3, horizon=20, seed=0))
        _, found = unroll(make_step(rule, task), dict(rule.named_parameters()), task, stack, 10)
        losses.append(found.detach().cpu())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-7, atol=1e-9)
