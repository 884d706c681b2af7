"""The training loop and its summaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.common.training import (
    Run,
    batch_order,
    fastest_threads,
    final_loss,
    mean_loss,
    running_mean,
    seed_everything,
    steps_to,
)
from meta_train.data import Split


def blobs() -> Split:
    """Three clusters in the plane."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 2, generator=generator) * 0.2 + torch.tensor([[1.0, 0], [-1, 0], [0, 2]])[y]
    return Split(x[:60], y[:60], x[60:], y[60:])


def test_every_epoch_is_a_fresh_shuffle() -> None:
    order = batch_order(10, 4, 5, seed=0)
    assert order.shape == (5, 4)
    first, second = order.flatten()[:10], order.flatten()[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert torch.equal(order, batch_order(10, 4, 5, seed=0))
    assert not torch.equal(order, batch_order(10, 4, 5, seed=1))


def make_run(steps: int) -> Run:
    seed_everything(0)
    model = nn.Linear(2, 3)
    return Run(model, torch.optim.SGD(model.parameters(), lr=0.5), blobs(), batch_order(60, 20, steps, 0))


def test_taking_turns_changes_nothing() -> None:
    whole, parts = make_run(21), make_run(21)
    whole.advance(21)
    while not parts.done:
        parts.advance(5)
    assert whole.losses == parts.losses
    assert len(whole.losses) == 21
    assert whole.seconds > 0


def test_training_learns_and_accuracy_is_of_the_test_set() -> None:
    run = make_run(100)
    before = run.accuracy()
    run.advance(100)
    assert run.losses[-1] < 0.3 * run.losses[0]
    assert run.accuracy() > max(95.0, before)
    assert run.model.training


def test_summaries() -> None:
    losses = [4.0] * 50 + [2.0] * 50
    assert mean_loss(losses) == 3.0
    assert final_loss(losses) == 2.0
    assert final_loss([1.0, 3.0]) == 2.0
    smooth = running_mean(losses)
    assert len(smooth) == 51
    assert np.allclose(smooth[[0, 25, 50]], [4.0, 3.0, 2.0])
    assert np.allclose(running_mean([1.0, 3.0]), [2.0])


@pytest.mark.parametrize("target, step", [(4.0, 50), (3.0, 75), (2.0, 100), (1.9, None)])
def test_steps_to_counts_from_one(target: float, step: int | None) -> None:
    assert steps_to([4.0] * 50 + [2.0] * 50, target) == step


def test_a_loss_that_is_not_a_number_reaches_no_target() -> None:
    assert steps_to([float("nan")] * 60, 1.0) is None


def test_the_trial_of_threads_leaves_the_network_and_the_setting_alone() -> None:
    model = nn.Linear(2, 3)
    before, threads = model.weight.detach().clone(), torch.get_num_threads()
    assert fastest_threads(model, blobs(), 20, steps=2) in (1, threads)
    assert torch.equal(model.weight, before)
    assert torch.get_num_threads() == threads
