"""20,000 steps at a constant rate: nothing grows without bound, and nothing that was learned is lost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ngopt
from benchmarks import long_runs
from benchmarks.long_runs import PROBLEMS, train

# A network that is not trained any more, or not at all, misses these by far; between looks at a constant rate, losses
# differ by some per cent. Norms of weights whose scale does nothing, as before a normalisation, grow like the root of
# the number of steps, by a factor of 2 here; what is pushed one way all the time grows in proportion, by 4.
WORSE, GROWN = 1.2, 2.5


def untrained(model: nn.Module) -> torch.optim.Optimizer:
    """Changes nothing."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_twenty_thousand_steps(name: str) -> None:
    looks = train(PROBLEMS[name], ngopt.NGOptimizer, [5_000, 20_000])
    assert all(math.isfinite(look["loss"]) and math.isfinite(look["norm"]) for look in looks)
    assert looks[1]["loss"] < WORSE * looks[0]["loss"], looks
    assert looks[1]["norm"] < GROWN * looks[0]["norm"], looks
    assert train(PROBLEMS[name], untrained, [1])[0]["loss"] > WORSE * looks[0]["loss"], "control: there is much to lose"


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_can_be_learned(name: str) -> None:
    looks = train(PROBLEMS[name], ngopt.NGOptimizer, [1, 60])
    assert looks[1]["loss"] < looks[0]["loss"]
    still = train(PROBLEMS[name], untrained, [1, 3])
    assert still[0]["norm"] == still[1]["norm"], "control"


def test_the_table() -> None:
    looks = [{"step": step, "loss": 0.5, "norm": 2.0} for step in long_runs.CHECKS]
    lines = long_runs.table([{"network": "mlp", "optimizer": "AdamW", "looks": looks}]).splitlines()
    assert lines[2] == "| mlp | AdamW | 0.5000 / 0.5000 / 0.5000 / 0.5000 | 2.0 / 2.0 / 2.0 / 2.0 |"
