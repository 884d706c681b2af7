"""`torch.hub` finds the entry points, and they are ngopt's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import hubconf
import ngopt

ROOT = str(Path(__file__).resolve().parents[1])


def test_hub_loads_from_a_folder() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.hub.load(ROOT, "NGOptimizer", model, source="local", total_steps=10)
    assert isinstance(optimizer, torch.optim.Optimizer) and type(optimizer).__name__ == "NGOptimizer"
    with pytest.raises(RuntimeError, match="nothing"):
        torch.hub.load(ROOT, "nothing", source="local")
    assert hubconf.trace is ngopt.trace and hubconf.load_pretrained is ngopt.load_pretrained


def test_dependencies_are_those_of_the_package() -> None:
    text = (Path(ROOT) / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(hubconf.dependencies) == set(re.findall(r'"([A-Za-z0-9_-]+)>=', listed[1]))
