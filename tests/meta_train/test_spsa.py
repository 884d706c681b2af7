"""Moved actions against the true gradient of whole runs; what a pair shares; a run of the trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from meta_train_cases import BACKPROP, PowerTask, RateRule, config_of, moved_rule, register, thetas, tiny, trainer_of
from torch import Tensor, nn

from meta_train.estimators.spsa import LOOKS, TILT, in_time, moves_at, perturbations, spreads, spsa
from meta_train.inner import make_step, start
from meta_train.rules import LearnedRule
from meta_train.theta import Theta, flatten, unflatten
from meta_train.unroll import Objective, meta_losses, unroll

HORIZON, PAIRS, SIGMA = 20, 3, 1e-3
SPSA = {
    "estimator": "spsa", "families": ["tiny"], "count": 2, "horizon": [12, 14], "steps": [14, 14], "offset": False,
    "train": ["encoder", "heads"], "sigma": 0.3,
}  # fmt: skip
CONTROL = 0.05  # a wrong gradient is off by more than this


class TwoWeights(PowerTask):
    """Two tensors, of which one matters more."""

    def init(self, seed: int, count: int) -> dict[str, Tensor]:
        return {name: self.start.repeat(count, 1) for name in ("a", "b")}

    def loss(self, weights: dict[str, Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        return super().loss({"w": weights["a"]}, batch) + 4.0 * (weights["b"] ** 2).mean()


class TwoGains(RateRule):
    """Gradient descent with a rate for each of two tensors, at first and later, whose state remembers log gains."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.tilt = nn.Parameter(torch.tensor([-3.0, -4.0])), nn.Parameter(torch.tensor([0.2, -0.1]))

    def init_state(self, graph: Any, name: str, weight: Tensor) -> dict[str, Tensor]:
        return {"gain": torch.zeros(1)}

    def update(self, graph, weights, grads, state, *, step: int, total_steps: int, moves=None):
        own = dict(zip(weights, (self.gain + self.tilt * in_time(step / total_steps)[1])[:, None], strict=True))
        moves = moves or dict.fromkeys(weights, 0.0)
        updates = {name: -torch.exp(own[name] + moves[name]) * grads[name] for name in weights}
        return updates, {name: {"gain": gain.to(state[name]["gain"])} for name, gain in own.items()}

    def actions(self, state):
        return {name: own["gain"] for name, own in state.items()}

    def action_scales(self):
        return torch.ones(1)


def estimate(rule: LearnedRule, task: Any, theta: Theta, sigma: float = SIGMA) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient and the perturbations behind it."""
    stack = start(rule, task, count=PAIRS, horizon=HORIZON, seed=1, copies=2)
    stack = stack.with_tensors(x.double() for x in stack.tensors())
    sigmas = sigma * rule.action_scales().double()
    moves = perturbations(7, PAIRS, sigmas, list(stack.weights))
    step = make_step(rule, task, moves=partial(moves_at, moves))
    settings = {"moves": moves, "sigmas": sigmas, "objective": Objective()}
    gradient, after, losses = spsa(step, rule.actions, theta, task, stack, **settings)
    assert after.done and losses.shape == (HORIZON, 2 * PAIRS) and not gradient.requires_grad
    return gradient, moves


def test_it_is_the_true_gradient_times_the_covariance_of_the_perturbations() -> None:
    """Of all that a move of the whole run, and one from its start to its end, can say."""
    rule, task = TwoGains(), TwoWeights(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 3.0]))
    found, moves = estimate(rule, task, thetas(rule))
    theta = {name: value.requires_grad_() for name, value in thetas(rule).items()}
    stack = start(rule, task, count=1, horizon=HORIZON, seed=1)
    stack = stack.with_tensors(x.double() for x in stack.tensors())
    _, losses = unroll(make_step(rule, task), theta, task, stack, HORIZON)
    loss = meta_losses(Objective(), losses, 0, HORIZON).mean()
    true = torch.stack(torch.autograd.grad(loss, [theta["gain"], theta["tilt"]]), 1)  # [tensor, time]
    half = torch.stack([own[:PAIRS, :, 0] for own in moves.values()], 1)  # [pair, tensor, time]
    said = torch.einsum("int,i->nt", half, torch.einsum("int,nt->i", half, true)) / PAIRS
    said = said / spreads(torch.tensor([SIGMA]))[:, 0].double() ** 2
    looks = {round(share * HORIZON) // 10 * 10 / HORIZON for share in LOOKS}
    times = torch.tensor([in_time(look) for look in looks]).double()
    expected = torch.einsum("nt,lt,ls->ns", said, times, times) / len(times)  # what looks see of the two functions
    ours = torch.stack([unflatten(found, theta)[name] for name in ("gain", "tilt")], 1)
    assert (ours - expected).norm() < 1e-4 * expected.norm()
    assert (ours - true).norm() > CONTROL * true.norm()  # control: the covariance is there
    assert (unflatten(found, theta)["rate"] == 0.0).all()  # says nothing about gains


def test_pairs_are_mirrored_and_share_a_part() -> None:
    sigmas = torch.tensor([0.5, 0.1])
    moves = perturbations(3, 4000, sigmas, ["a", "b", "c"])
    for own in moves.values():
        assert torch.equal(own[:4000], -own[4000:])
        assert ((own.std(0) / spreads(sigmas) - 1.0).abs() < 0.05).all()
    a, b = (moves[name][:4000].flatten(1) for name in "ab")
    correlations = torch.corrcoef(torch.cat([a, b], 1).mT)  # of the four numbers of a, then of b
    expected = torch.eye(8) + 0.5 * torch.eye(4).repeat(2, 2) * (1.0 - torch.eye(8))
    assert (correlations - expected).abs().max() < 0.06
    assert not torch.equal(perturbations(4, 4000, sigmas, ["a"])["a"], moves["a"])  # control: another seed


def test_moves_in_time_are_orthonormal_over_a_run() -> None:
    times = torch.tensor([in_time(k / 1000) for k in range(1000)])
    assert (times.mT @ times / 1000 - torch.eye(2)).abs().max() < 2e-3
    moves = perturbations(5, 2, torch.tensor([0.3]), ["a"])
    early, late = (moves_at(moves, done)["a"] for done in (0.0, 1.0))
    assert torch.allclose((early + late) / 2, moves["a"][:, 0])
    assert torch.allclose((late - early) / 2, 3.0**0.5 * moves["a"][:, 1]) and TILT > 0.0


def test_a_run_that_diverges_says_worse_and_no_more() -> None:
    """Large moves make one of each pair overflow: the gradient points away from it, and is finite and bounded."""
    rule, task = TwoGains(), TwoWeights(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 3.0]), power=4)
    with torch.no_grad():
        rule.gain.fill_(-0.7)
    found, moves = estimate(rule, task, thetas(rule), sigma=2.0)
    assert torch.isfinite(found).all()
    largest = torch.tensor([1.0, 3.0**0.5])[:, None] / spreads(torch.tensor([2.0])) ** 2
    bound = sum((own.abs() * largest).sum() for own in moves.values()) / (2 * PAIRS)
    assert 0.0 < unflatten(found, thetas(rule))["gain"].abs().sum() <= bound
    assert unflatten(found, thetas(rule))["gain"].sum() > 0.0  # smaller is better
    calm, _ = estimate(rule, task, {**thetas(rule), "gain": torch.full((2,), -6.0).double()}, sigma=0.01)
    assert unflatten(calm, thetas(rule))["gain"].sum() < 0.0  # control: from very small steps, larger is better


def test_the_rule_of_neural_graphs_learns_to_say_it() -> None:
    """A small step against the gradient lowers the meta-loss; only what controls are read off gets a gradient."""
    rule, task = moved_rule(), tiny(torch.Generator().manual_seed(0))
    theta = thetas(rule)
    gradient, _ = estimate(rule, task, theta, sigma=0.1)
    by_name = unflatten(gradient, theta)
    assert (by_name["inner.heads.read.weight"].abs().amax(1) > 0.0).all()
    assert any(value.abs().max() > 0.0 for name, value in by_name.items() if ".encoder." in name)
    assert by_name["inner.schedule.weight"].abs().max() == 0.0

    def meta_loss(at: Tensor) -> float:
        stack = start(rule, task, count=PAIRS, horizon=HORIZON, seed=1)
        stack = stack.with_tensors(x.double() for x in stack.tensors())
        with torch.no_grad():
            _, losses = unroll(make_step(rule, task), unflatten(at, theta), task, stack, HORIZON)
        return float(meta_losses(Objective(), losses, 0, HORIZON).mean())

    move = 0.3 * gradient / gradient.norm()
    here = flatten(theta)
    assert meta_loss(here - move) < meta_loss(here) < meta_loss(here + move)  # the last one is the control


@pytest.mark.parametrize("slots", [[SPSA], [SPSA, BACKPROP]], ids=["alone", "mixed"])
def test_a_stopped_run_ends_with_the_same_bits(slots: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)
    config = config_of(slots=slots, iterations=4)

    def run(path: Path, *stops: int) -> Theta:
        for stop in (*stops, 4):
            trainer = trainer_of(config, path)
            while trainer.progress.iteration < stop:
                trainer.iterate()
                trainer.save()
        return {name: value.detach().clone() for name, value in trainer.rule.named_parameters()}

    whole, fresh = run(tmp_path / "whole"), dict(trainer_of(config, tmp_path / "none").rule.named_parameters())
    stopped = run(tmp_path / "stopped", 1, 3)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert not all(torch.equal(whole[name], fresh[name]) for name in whole)  # control: something was learned
