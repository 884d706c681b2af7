"""The models that `benchmarks.cost.step` steps, each with a batch and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.models import fm16


@dataclass(frozen=True)
class Workload:
    """A model, what to trace it with, and one training loss."""

    model: nn.Module
    example: Any  # positional inputs (a tensor) or keyword inputs (a dict)
    loss: Callable[[], Tensor]
    batch: str


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            conv = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, height, width] -> the same, smaller by the stride."""
        return F.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 for images of 32 x 32 (3 x 3 stem, no pooling): 11.2M parameters."""
    blocks: list[nn.Module] = []
    fan_in = 64
    for fan_out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Residual(fan_in, fan_out, stride), Residual(fan_out, fan_out, 1)]
        fan_in = fan_out
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def _classifier(model: nn.Module, shape: tuple[int, ...], batch: int, device: str) -> Workload:
    model, x = model.to(device), torch.randn(batch, *shape, device=device)
    y = torch.randint(10, (batch,), device=device)
    return Workload(model, x[:2], lambda: F.cross_entropy(model(x), y), f"{batch}")


def _fm16(device: str) -> Workload:
    return _classifier(fm16(), (1, 28, 28), 128, device)


def _mlp(device: str) -> Workload:
    layers = [nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 512), nn.ReLU(), nn.Linear(512, 10)]
    return _classifier(nn.Sequential(*layers), (784,), 128, device)


def _resnet18(device: str) -> Workload:
    return _classifier(resnet18(), (3, 32, 32), 128, device)


def _gpt2(device: str) -> Workload:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    model, size = GPT2LMHeadModel(config).to(device), (1, 64)
    ids = torch.randint(config.vocab_size, size, device=device)
    return Workload(model, {"input_ids": ids[:, :16]}, lambda: model(input_ids=ids, labels=ids).loss, "1 x 64 tokens")


def _smoke(device: str) -> Workload:
    return _classifier(nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 10)), (20,), 8, device)


WORKLOADS: dict[str, Callable[[str], Workload]] = {
    "FM-16 (14k)": _fm16,
    "MLP (1.04M)": _mlp,
    "ResNet-18 (11.2M)": _resnet18,
    "GPT-2 small (124M)": _gpt2,
    "smoke": _smoke,
}
