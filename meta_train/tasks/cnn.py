"""Image classifiers that are small CNNs: plain, strided, with norms or residuals; one or three channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.augment import batch_size, noisy_images, training_conditions
from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import chance, choice
from meta_train.tasks.images import CLASSES, DATASETS, Images
from meta_train.tasks.mlp import ACTIVATIONS, initialised


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:  # [batch channel height width]
        """Same shape."""
        return x + self.inner(x)


def norm_layer(kind: str, channels: int) -> list[nn.Module]:
    """A norm that keeps no statistics: tasks have no buffers."""
    if kind == "batch":
        return [nn.BatchNorm2d(channels, track_running_stats=False)]
    return [nn.GroupNorm(4, channels)] if kind == "group" else []


@family("cnn")
def cnn(generator: torch.Generator) -> Task:
    """Two or three convolutions of 8 to 32 channels; global pooling or a flattened picture; 8 x 8 to 28 x 28 pixels."""
    size = choice(generator, (8, 10, 14, 14, 20, 28))
    channels = choice(generator, (1, 1, 3))
    widths = choice(generator, ((8, 16), (8, 16, 16), (16, 16, 16), (16, 32, 32)))
    kernel, activation = choice(generator, (3, 3, 3, 5)), choice(generator, ("relu", "relu", *ACTIVATIONS))
    norm = choice(generator, ("none", "none", "none", "batch", "group"))
    residual, flatten = chance(generator, 0.25), size <= 14 and chance(generator, 0.25)
    init = choice(generator, ("torch", "torch", "kaiming"))
    data = Images(choice(generator, DATASETS), size, channels, **noisy_images(generator))

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        fan_in, side = channels, size
        for k, width in enumerate(widths):
            first = k == 0
            inner = [
                nn.Conv2d(fan_in, width, kernel, stride=2 if first else 1, padding=0 if first else kernel // 2),
                *norm_layer(norm, width),
                ACTIVATIONS[activation](),
            ]
            side = (side - kernel) // 2 + 1 if first else side
            same = residual and fan_in == width
            layers += [Residual(nn.Sequential(*inner))] if same else inner
            fan_in = width
        if flatten:
            layers += [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(fan_in * (side // 2) ** 2, CLASSES)]
        else:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, CLASSES)]
        return initialised(nn.Sequential(*layers), init)

    kind = f"{'-'.join(map(str, widths))} k{kernel} {activation} {norm}"
    form = f"{kind}{' res' if residual else ''}{' flat' if flatten else ''} {init}"
    name = f"cnn {form} {data.name} {size}px {channels}ch"
    batch = batch_size(generator, (32, 64, 128) if size < 20 else (32, 64))
    return Task(name, "cnn", build, data, F.cross_entropy, batch, **training_conditions(generator, build()))
