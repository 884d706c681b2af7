"""Factories for the tests of the command line."""

from __future__ import annotations

from torch import nn


def mlp() -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 11), nn.GELU(), nn.Linear(11, 3))
