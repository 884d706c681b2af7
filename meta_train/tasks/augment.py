"""What makes one task many: other scales of the weights, other batch sizes, noise, and less data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from meta_train.tasks.drawing import chance, choice, integer, log_uniform, uniform


def noisy_images(generator: torch.Generator, probability: float = 0.25) -> dict[str, Any]:
    """Arguments of `Images`: now and then a small subset, and label noise."""
    return {
        "subset": int(log_uniform(generator, 500, 50_000)) if chance(generator, probability) else None,
        "label_noise": uniform(generator, 0.0, 0.4) if chance(generator, probability) else 0.0,
        "seed": integer(generator, 0, 2**31),
    }


def training_conditions(generator: torch.Generator, module: nn.Module, probability: float = 0.25) -> dict[str, Any]:
    """Arguments of `Task`: now and then another parametrisation, global or per tensor, and gradient noise."""
    scales: dict[str, float] = {}
    if chance(generator, probability):
        names = [name for name, _ in module.named_parameters()]
        if chance(generator, 0.5):
            scales = dict.fromkeys(names, log_uniform(generator, 0.5, 2.0))
        else:
            scales = {name: log_uniform(generator, 0.5, 2.0) for name in names}
    noise = log_uniform(generator, 0.1, 1.0) if chance(generator, 0.5 * probability) else 0.0
    return {"scales": scales, "gradient_noise": noise}


def batch_size(generator: torch.Generator, usual: tuple[int, ...] = (32, 64, 128)) -> int:
    """A batch size."""
    return choice(generator, usual)
