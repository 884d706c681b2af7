"""Image classifiers that are tiny vision transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from meta_train.tasks.augment import batch_size, noisy_images, training_conditions
from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import chance, choice
from meta_train.tasks.images import CLASSES, DATASETS, Images
from meta_train.tasks.transformer import Block

GRIDS = ((14, 7), (14, 7), (16, 4), (20, 5), (20, 5), (20, 4), (28, 7), (28, 7), (14, 2), (28, 4))  # size, patch


class Patches(nn.Module):
    """An image as tokens, each one square of pixels."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:  # [batch channel height width] -> [batch token channel*patch*patch]
        """Tokens row by row."""
        squares = {"height": self.patch, "width": self.patch}
        return rearrange(x, "b channel (row height) (col width) -> b (row col) (channel height width)", **squares)


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, and a linear head on a class token or on the mean of all tokens."""

    def __init__(self, size: int, patch: int, width: int, blocks: list[Block], *, class_token: bool) -> None:
        super().__init__()
        self.patches, self.embed = Patches(patch), nn.Linear(patch * patch, width)
        self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2 + class_token, width))
        self.token = nn.Parameter(0.02 * torch.randn(width)) if class_token else None
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # [batch 1 height width] -> [batch class]
        """Logits."""
        x = self.embed(self.patches(x))
        if self.token is not None:
            x = torch.cat((self.token.expand(len(x), 1, -1), x), 1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


@family("vit")
def vit(generator: torch.Generator) -> Task:
    """One or two pre-norm blocks of width 16 to 48 with 2 to 4 heads; 4 to 49 tokens of images up to 28 x 28."""
    size, patch = choice(generator, GRIDS)
    heads, width = choice(generator, (2, 3, 4)), choice(generator, (16, 24, 32, 48))
    width -= width % heads
    many = (size // patch) ** 2 > 25  # attention costs the square of the tokens, and more than all else here
    depth, hidden = 1 if many else choice(generator, (1, 2)), choice(generator, (2, 4)) * width
    activation, packed = choice(generator, ("gelu", "gelu", "relu", "silu")), chance(generator, 0.5)
    class_token = chance(generator, 0.3)
    data = Images(choice(generator, DATASETS), size, **noisy_images(generator))

    def build() -> nn.Module:
        blocks = [Block(width, heads, hidden, activation, causal=False, packed=packed) for _ in range(depth)]
        return VisionTransformer(size, patch, width, blocks, class_token=class_token)

    form = f"{activation}{' packed' if packed else ''}{' cls' if class_token else ''}"
    name = f"vit {depth}x{width} h{heads} ff{hidden} {form} {data.name} {size}px p{patch}"
    batch = batch_size(generator, (32,) if many else (32, 64))
    return Task(name, "vit", build, data, F.cross_entropy, batch, **training_conditions(generator, build()))
