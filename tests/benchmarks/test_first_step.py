"""Memory of the first steps is measured in multiples of the model, and compared with AdamW's."""

from __future__ import annotations

import sys

import pytest

from benchmarks.cost import first_step


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.filterwarnings("ignore")
def test_every_phase_is_measured() -> None:
    row = first_step.measured("smoke", "NGOptimizer")
    assert all(row[phase] > 1 for phase in first_step.PHASES), row
    assert row["parameters"] > 100_000


def test_the_bar_is_that_of_adamw_and_one_and_a_half_models() -> None:
    adamw = {"size": "small", "parameters": 42_000_000, "optimizer": "AdamW", "first backward": 2.0, "first step": 4.2}
    ours = {**adamw, "optimizer": "NGOptimizer", "trace": 5.3, "later step": 6.7}
    lines = first_step.table([adamw, ours]).splitlines()
    assert lines[2].endswith("| 4.20 |  |") and lines[3].endswith("| 6.70 | 5.70 |")
