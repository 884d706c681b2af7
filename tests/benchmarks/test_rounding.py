"""The study of amplified rounding runs, and finds nothing where nothing is nudged."""

from __future__ import annotations

import pytest

from benchmarks.cost import rounding


def test_drift_is_of_the_nudge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "AFTER", (1, 2))
    first, second = rounding.drift(100, 1)
    assert 1e-7 < first < 1
    assert 1e-7 < second < 1
    monkeypatch.setattr(rounding, "LAST_DIGIT", 0.0)
    assert rounding.drift(100, 1) == [0.0, 0.0]
