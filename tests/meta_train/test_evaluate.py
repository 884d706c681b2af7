"""Validation: against the untrained rule, on the same runs; divergence counts against a rule."""

from __future__ import annotations

import math

import pytest
import torch
from meta_train_cases import PowerTask, RateRule, tiny

from meta_train.config import EvaluationConfig
from meta_train.evaluate import DIVERGED, Curve, Validation, score
from meta_train.rules import NeuralGraphRule
from meta_train.tasks import FAMILIES
from meta_train.theta import Theta

HORIZON = 20


@pytest.fixture
def validation(monkeypatch: pytest.MonkeyPatch) -> Validation:
    """One quadratic, runs of 20 steps."""
    task = PowerTask(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]))
    monkeypatch.setitem(FAMILIES, "power", lambda generator: task)
    rule = RateRule()
    config = EvaluationConfig(families=("power",), count=3, horizons=(HORIZON,))
    return Validation(rule, config, theta(-2.0))


def theta(rate: float) -> Theta:
    """Gradient descent without momentum."""
    return {"rate": torch.tensor(rate), "decay": torch.zeros(1)}


def test_a_curve_is_that_of_the_literal_run(validation: Validation) -> None:
    ((_, curve),) = validation(theta(-1.0)).values()
    w, logs = 1.0, []
    for _ in range(HORIZON):
        w -= math.exp(-2.0) * w / 2
        logs.append(math.log(w * w / 2 + 0.1))
    assert curve.mean == pytest.approx(sum(logs) / HORIZON, rel=1e-5)
    assert curve.final == pytest.approx(sum(logs[-4:]) / 4, rel=1e-5) and curve.diverged == 0


def test_better_is_negative_the_same_is_zero_divergence_is_worst(validation: Validation) -> None:
    better, same, worse = (score(validation(theta(rate))) for rate in (-1.0, -2.0, -3.0))
    assert better < 0.0 == same < worse
    found = validation(theta(8.0))  # far above 2 over the curvature
    ((trained, _),) = found.values()
    assert trained.diverged == 3 and trained.final == pytest.approx(DIVERGED) and score(found) > worse


def test_harm_weighs_more_than_gain() -> None:
    found = {(name, 5): (Curve(0.0, final, 0), Curve(0.0, 1.0, 0)) for name, final in (("a", 0.0), ("b", 3.0))}
    assert score(found) == 0.5 and score(found, harm=4.0) == 3.5  # one gains 1, the other loses 2


def test_the_same_runs_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "tiny", tiny)
    rule = NeuralGraphRule()
    untrained = {name: value.detach() for name, value in rule.named_parameters()}
    config = EvaluationConfig(families=("tiny",), count=2, horizons=(3,))
    first, again = (Validation(rule, config, untrained)(untrained) for _ in range(2))
    assert first == again and score(first) == 0.0
    other = EvaluationConfig(families=("tiny",), count=2, horizons=(4,))  # control
    assert Validation(rule, other, untrained)(untrained) != first
