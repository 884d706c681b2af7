"""PES against the true gradient of whole runs; what a pair shares."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meta_train_cases import PowerTask, RateRule, config_of, moved_rule, tiny, trainer_of
from torch import Tensor

from meta_train.estimators.pes import particles, perturbations, pes_gradient
from meta_train.inner import batch_at, make_step, start
from meta_train.outer import Outer
from meta_train.tasks import FAMILIES
from meta_train.theta import flatten, unflatten
from meta_train.unroll import unroll

HORIZON, STEPS, PAIRS, RUNS, SIGMA = 8, 2, 64, 24, 0.03
START, SCALES, FLOOR = (1.0, -1.0), (1.0, 3.0), 0.1


def true_gradient(steps: int = STEPS) -> Tensor:  # [2]
    """Of the sum over the steps of a run, by autograd through a loop that uses nothing of meta_train."""
    rate, decay = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-2.0, 0.5))
    w, scale = torch.tensor(START, dtype=torch.float64), torch.tensor(SCALES, dtype=torch.float64)
    momentum, total = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(HORIZON):
        momentum = decay * momentum + scale * w / 2
        w = w - torch.exp(rate) * momentum
        total = total + torch.log((scale * w**2).mean() / 2 + FLOOR) / steps
    return torch.stack(torch.autograd.grad(total, (rate, decay)))


def run_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int = STEPS, pairs: int = PAIRS
) -> Tensor:  # [run, piece, 2]
    """What a PES slot of the trainer gives in each piece of many runs; the meta-parameters do not move."""
    pieces = math.ceil(HORIZON / steps)
    task = PowerTask(torch.tensor(START), torch.tensor(SCALES), floor=FLOOR)
    monkeypatch.setitem(FAMILIES, "power", lambda generator: task)
    slot = {"estimator": "pes", "families": ["power"], "count": pairs, "sigma": SIGMA, "train": ["all"]}
    slot |= {"horizon": [HORIZON, HORIZON], "steps": [steps, steps], "offset": False}
    config = config_of(
        slots=[slot], objective={"late": 0.0}, iterations=RUNS * pieces,
        evaluation={"families": ["power"]},
    )  # fmt: skip
    found = []
    monkeypatch.setattr(Outer, "normalised", lambda self, gradient, kind: found.append(gradient))
    trainer = trainer_of(config, tmp_path, RateRule())
    while not trainer.done:
        trainer.iterate()
    return torch.stack(found).reshape(RUNS, pieces, 2).double()


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest error of a mean over runs, in standard errors."""
    return float(((found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(len(found)))).max())


def test_the_gradient_is_that_of_whole_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = true_gradient()
    found = run_gradients(tmp_path / "pes", monkeypatch).sum(1)
    assert worst(found, expected) < 4
    assert (found.std(0) / math.sqrt(RUNS) < 0.1 * expected.abs()).all()  # which says something
    # control: evolution strategies that remember nothing have the gradient of single pieces
    monkeypatch.setattr(
        "meta_train.trainer.pes_gradient", lambda sums, losses, sigma: pes_gradient(_last(sums), losses, sigma)
    )
    _last.before = torch.zeros(PAIRS, 2)
    truncated = run_gradients(tmp_path / "es", monkeypatch).sum(1)
    assert worst(truncated, expected) > 10


def test_steps_of_a_short_last_piece_weigh_as_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 3, 3 and 2 of 8 steps."""
    found, expected = run_gradients(tmp_path, monkeypatch, 3, 16 * PAIRS), true_gradient(3)
    assert worst(found.sum(1), expected) < 4
    as_means = found * torch.tensor([1.0, 1.0, 3 / 2])[:, None]
    assert worst(as_means.sum(1), expected) > 6  # control


def _last(sums: Tensor) -> Tensor:
    """The perturbations of the last piece alone, out of sums that start from zero after every run."""
    _last.pieces = getattr(_last, "pieces", 0) + 1
    own = sums - (_last.before if _last.pieces % (HORIZON // STEPS) != 1 else 0.0)
    _last.before = sums.clone()
    return own


def test_a_pair_shares_weights_batches_and_noise() -> None:
    rule, task = moved_rule(), replace(tiny(torch.Generator().manual_seed(0)), gradient_noise=0.1)
    stack = start(rule, task, count=2, horizon=6, seed=3, copies=2)
    assert all(torch.equal(*x.chunk(2)) for x in [*stack.tensors(), *batch_at(task, stack)])
    assert not torch.equal(*stack.weights["0.weight"][:2]) and not torch.equal(*batch_at(task, stack)[0][:2])  # control
    theta = {name: value.detach() for name, value in rule.named_parameters()}
    for sigma in (0.0, 0.1):
        epsilon = perturbations(5, 2, sigma, torch.ones_like(flatten(theta)))
        own = unflatten(particles(flatten(theta), epsilon), theta)
        with torch.no_grad():
            _, losses = unroll(make_step(rule, task, own_theta=True), own, task, stack, 3)
        assert torch.equal(*losses.chunk(2, 1)) == (sigma == 0.0)  # the perturbation is all that sets them apart


def test_perturbations_are_antithetic_masked_and_of_the_seed() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0])
    epsilon = perturbations(1, 500, 0.2, mask)
    plus, minus = particles(torch.ones(3), epsilon).chunk(2)
    assert torch.allclose(plus + minus, torch.full((500, 3), 2.0)) and not torch.equal(plus, minus)
    assert not epsilon[:, 1].any() and abs(float(epsilon[:, ::2].std()) - 0.2) < 0.02
    assert torch.equal(epsilon, perturbations(1, 500, 0.2, mask))
    assert not torch.equal(epsilon, perturbations(2, 500, 0.2, mask))


def test_pairs_that_are_not_finite_are_dropped_and_counted() -> None:
    sums = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    gradient, dropped = pes_gradient(sums, torch.tensor([3.0, math.nan, 1.0, 1.0, 2.0, math.inf]), 0.5)
    assert dropped == 2 and torch.allclose(gradient, sums[0] * 2.0 / (2 * 0.25))
    kept, none = pes_gradient(sums[:1], torch.tensor([3.0, 1.0]), 0.5)
    assert none == 0 and torch.equal(gradient, kept)
