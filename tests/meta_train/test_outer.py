"""The outer step: schedule, normalisation by what is usual, the average."""

from __future__ import annotations

import math

import pytest
import torch
from meta_train_cases import RateRule

from meta_train.config import OuterConfig
from meta_train.outer import Outer
from meta_train.rules import NeuralGraphRule


def outer(**settings: float) -> Outer:
    return Outer(RateRule(), OuterConfig(**settings), 100)  # type: ignore[arg-type]


def test_gradients_are_in_units_of_their_kinds_usual_norm_and_clipped() -> None:
    own = outer(clip=2.0)
    one = torch.tensor([3.0, 4.0])
    for _ in range(3):
        assert own.normalised(one, "a").norm() == pytest.approx(1.0)  # type: ignore[union-attr]
    assert own.normalised(1.5 * one, "a").norm() == pytest.approx(1.5)  # type: ignore[union-attr]
    usual = own.usual["a"]
    clipped = own.normalised(1e6 * one, "a")
    assert clipped.norm() == pytest.approx(2.0)  # type: ignore[union-attr]
    assert own.usual["a"] <= 1.2 * usual  # one outlier does not become usual
    assert own.normalised(1e6 * one, "b").norm() == pytest.approx(1.0)  # type: ignore[union-attr]  # control


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_or_zero_leave_no_trace(bad: float) -> None:
    own = outer()
    assert own.normalised(torch.tensor([bad, 1.0]), "a") is None and not own.usual
    zero = own.normalised(torch.zeros(2), "a")
    assert zero is not None and not zero.any() and not own.usual
    for size in (1e3, 1e3):  # what comes then is normalised as ever
        assert own.normalised(torch.tensor([size, 0.0]), "a").norm() == pytest.approx(1.0)  # type: ignore[union-attr]


def test_the_learning_rate_rises_and_falls() -> None:
    own = outer(lr=0.1, warmup=10, final=0.1)
    rates = [own.lr_at(k) for k in range(100)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(0.1, rel=0.03)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, rel=0.1)


def test_a_step_is_adamws_and_the_average_follows() -> None:
    own = outer(lr=0.1, warmup=0, weight_decay=0.0, ema=0.5)
    before = {name: value.detach().clone() for name, value in own.params.items()}
    own.step(torch.tensor([1.0, -2.0]), 0)
    moved = {name: float(value.detach() - before[name]) for name, value in own.params.items()}
    assert moved == pytest.approx({"rate": -0.1, "decay": 0.1}, rel=1e-4)  # Adam's first step
    assert float(own.average["rate"] - before["rate"]) == pytest.approx(-0.09, rel=1e-4)  # 1 of 10 is the start
    for _ in range(60):
        own.step(torch.zeros(2), 90)
    assert torch.allclose(own.average["rate"], own.params["rate"].detach(), atol=1e-3)


def test_decay_pulls_to_the_hand_made_rule_alone() -> None:
    rule = NeuralGraphRule()
    with torch.no_grad():
        for value in rule.parameters():
            value.fill_(1.0)
    own = Outer(rule, OuterConfig(lr=0.1, weight_decay=0.5, warmup=0), 10)
    own.step(torch.zeros(own.size()), 0)
    after = {name: float(value.detach().mean()) for name, value in own.params.items()}
    readouts = {name for name, value in after.items() if value < 1.0}
    assert readouts and all("heads" in name or "schedule" in name for name in readouts)
    start = dict(NeuralGraphRule().named_parameters())
    assert not any(start[name].any() for name in readouts)  # decay to zero is decay to the start
    assert any("encoder" in name and value == 1.0 for name, value in after.items())  # control
