"""Image classifiers that are plain MLPs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from meta_train.tasks.augment import batch_size, noisy_images, training_conditions
from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import chance, choice, integer
from meta_train.tasks.images import CLASSES, DATASETS, Images

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "leaky": nn.LeakyReLU}
INITS = ("torch", "kaiming", "orthogonal")
WIDTHS = (8, 16, 32, 48, 64, 96, 128, 256)


@family("mlp")
def mlp(generator: torch.Generator) -> Task:
    """One to eight layers of width 8 to 256, at 8 x 8 to 28 x 28 pixels."""
    depth = integer(generator, 1, 9)
    size = choice(generator, (8, 8, 8, 12, 14, 28))
    most = 256 if size * size * depth <= 400 else 128 if size < 28 else 64
    widths = [choice(generator, [w for w in WIDTHS if w <= most]) for _ in range(depth - 1)]
    activation, norm = choice(generator, list(ACTIVATIONS)), depth > 2 and chance(generator, 0.2)
    init = choice(generator, INITS)
    data = Images(choice(generator, DATASETS), size, **noisy_images(generator))

    def build() -> nn.Module:
        return initialised(nn.Sequential(nn.Flatten(), *dense([size * size, *widths, CLASSES], activation, norm)), init)

    name = f"mlp {'-'.join(map(str, [size * size, *widths, CLASSES]))} {activation}{' ln' if norm else ''} {init}"
    batch, conditions = batch_size(generator), training_conditions(generator, build())
    return Task(f"{name} {data.name}", "mlp", build, data, F.cross_entropy, batch, **conditions)


def dense(widths: Sequence[int], activation: str, norm: bool = False) -> list[nn.Module]:
    """Linear layers, with an activation (and perhaps a norm before it) after each but the last."""
    *hidden, last = itertools.pairwise(widths)
    layers: list[nn.Module] = []
    for fan_in, fan_out in hidden:
        layers += [nn.Linear(fan_in, fan_out), *([nn.LayerNorm(fan_out)] if norm else []), ACTIVATIONS[activation]()]
    return [*layers, nn.Linear(*last)]


def initialised(module: nn.Module, init: str) -> nn.Module:
    """Draw the weights of linear layers and convolutions anew; ``"torch"`` leaves torch's own."""
    if init == "torch":
        return module
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            (nn.init.kaiming_normal_ if init == "kaiming" else nn.init.orthogonal_)(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
