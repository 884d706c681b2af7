"""Small random networks, settings and trainers that the tests of benchmarks.weight_space share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.inr_data.siren import Params, initial
from benchmarks.weight_space.config import Config, configure
from benchmarks.weight_space.samples import Samples, Stack
from benchmarks.weight_space.tasks import Classification
from benchmarks.weight_space.train import Trainer


def networks(count: int = 5, channels: int = 1, dtype: torch.dtype = torch.float32) -> Params:
    """Random SIRENs, biases and output layer of a size that shows."""
    params = initial(count, channels, 3)
    return {
        name: (p + 0.1 * torch.rand(p.shape, generator=torch.Generator().manual_seed(1))).to(dtype)
        for name, p in params.items()
    }


def settings(**values: Any) -> Config:
    """Settings of a classification that takes a moment."""
    base = {"suite": "inr_classification", "task": "classify", "dataset": "digits", "size": "smoke", "encoder": "mlp"}
    return configure(**(base | {"epochs": 3, "batch_size": 8, "checkpoint_steps": 2} | values))


def sample(count: int, seed: int) -> Samples:
    """Networks whose class is the sign of one weight."""
    params = initial(count, 1, seed)
    return Samples((Stack(None, params),), (params["seq.0.weight"][:, 0, 0] > 0).long())


def killed_at(call: int, task: type, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Interrupt a task's loss at one of its calls; returns a list that grows with every call."""
    real, calls = task.loss, []

    def loss(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(task, "loss", loss)
    return calls


class Reader(nn.Module):
    """A small model with dropout, so that a resumed run needs the same random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        self.register_buffer("std", torch.ones(()))

    def fit_statistics(self, graph: Any, params: Params) -> None:
        self.std.copy_(params["seq.0.weight"].std())

    def forward(self, graph: Any, params: Params) -> Tensor:
        return self.body(params["seq.0.weight"][:, :, 0] / self.std)


def trainer(folder: Path, task: Any = None, **values: Any) -> Trainer:
    """A run that learns the sign of a weight."""
    config = settings(**values)
    torch.manual_seed(config.seed)
    splits = {"train": sample(22, 0), "val": sample(9, 1), "test": sample(10, 2)}
    return Trainer(config, task or Classification(), splits, Reader(), folder)
