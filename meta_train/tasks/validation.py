"""Tasks for choosing between checkpoints: architectures, images and a table that meta-training never draws.

Every task here is fixed, so that scores of different runs compare; a seed changes nothing but what is said to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import choice
from meta_train.tasks.images import CLASSES, Images
from meta_train.tasks.mlp import dense
from meta_train.tasks.recurrent import Recurrence
from meta_train.tasks.tabular import Table
from meta_train.tasks.vit import Patches


@family("validation-cnn")
def validation_cnn(generator: torch.Generator) -> Task:
    """Three convolutions of 16, 32 and 32 channels, the first with stride 2, and global average pooling."""
    del generator
    widths = ((1, 16, 2), (16, 32, 1), (32, 32, 1))

    def build() -> nn.Module:
        convolutions = [nn.Conv2d(ins, outs, 3, stride=stride, padding=1) for ins, outs, stride in widths]
        return _pooled(32, *(layer for convolution in convolutions for layer in (convolution, nn.ReLU())))

    return _classifier("validation-cnn", "16-32-32", build, "fashion-mnist", 14)


@family("validation-depthwise")
def validation_depthwise(generator: torch.Generator) -> Task:
    """A convolution, then twice a depthwise and a pointwise one, as in MobileNet; ReLU."""
    del generator

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()]
        for ins, outs in ((16, 32), (32, 32)):
            layers += [nn.Conv2d(ins, ins, 3, padding=1, groups=ins), nn.ReLU(), nn.Conv2d(ins, outs, 1), nn.ReLU()]
        return _pooled(32, *layers)

    return _classifier("validation-depthwise", "16-32-32", build, "fashion-mnist", 14)


class MixerBlock(nn.Module):
    """``x + mlp over tokens``, then ``x + mlp over channels``, each after a norm."""

    def __init__(self, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, tokens))
        self.within = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:  # [batch token width]
        """Same shape."""
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class Mixer(nn.Module):
    """A tiny MLP-Mixer (Tolstikhin et al., 2021, arXiv:2105.01601)."""

    def __init__(self, size: int, patch: int, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(Patches(patch), nn.Linear(patch * patch, width))
        self.blocks = nn.Sequential(*(MixerBlock((size // patch) ** 2, width, hidden) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [batch 1 height width] -> [batch class]
        """Logits."""
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))


@family("validation-mixer")
def validation_mixer(generator: torch.Generator) -> Task:
    """Two mixer blocks of width 24 over 16 patches of 4 x 4."""
    del generator
    return _classifier("validation-mixer", "2x24", lambda: Mixer(16, 4, 24, 32, 2), "mnist", 16)


@family("validation-deep")
def validation_deep(generator: torch.Generator) -> Task:
    """Six hidden layers of 32; tanh or ReLU is drawn."""
    activation = choice(generator, ("tanh", "relu"))
    widths = [64, *[32] * 6, CLASSES]

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), *dense(widths, activation))

    return _classifier("validation-deep", f"6x32 {activation}", build, "mnist", 8)


@family("validation-table")
def validation_table(generator: torch.Generator) -> Task:
    """Four hidden layers of 24, tanh, on the irises of scikit-learn: the only one that needs no files."""
    del generator

    def build() -> nn.Module:
        return nn.Sequential(*dense([4, *[24] * 4, 1], "tanh"))

    return Task("validation-table 4x24 iris", "validation-table", build, Table("iris"), F.mse_loss, 32)


class RowGRU(nn.Module):
    """A GRU that reads an image row by row; the last state is classified."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.network, self.head = Recurrence("gru", columns, width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [batch 1 row column] -> [batch class]
        """Logits."""
        return self.head(self.network(x[:, 0])[:, -1])


@family("validation-gru")
def validation_gru(generator: torch.Generator) -> Task:
    """A GRU of 32 over the 14 rows of an image."""
    del generator
    return _classifier("validation-gru", "32", lambda: RowGRU(14, 32), "mnist", 14)


@family("validation-pixels")
def validation_pixels(generator: torch.Generator) -> Task:
    """A convolutional autoencoder: 8 and 12 channels, each with stride 2, and transposed ones back."""
    del generator

    def build() -> nn.Module:
        down = [nn.Conv2d(1, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.SiLU(), nn.Conv2d(12, 4, 1)]
        up = [nn.ConvTranspose2d(4, 12, 2, 2), nn.SiLU(), nn.ConvTranspose2d(12, 1, 2, 2), nn.Flatten()]
        return nn.Sequential(*down, *up)

    data = Images("fashion-mnist", 12, targets="pixels", held_out=True)
    return Task("validation-pixels 8-12-4", "validation-pixels", build, data, F.mse_loss, 32)


def _pooled(width: int, *layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def _classifier(family: str, form: str, build: Callable[[], nn.Module], dataset: str, size: int) -> Task:
    data = Images(dataset, size, held_out=True)
    return Task(f"{family} {form} {dataset} {size}px", family, build, data, F.cross_entropy, 64)
