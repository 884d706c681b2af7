"""Pre-norm transformers: one on patches of images, one that predicts the next character of a novel."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.learning_to_optimize.tasks.base import BITS, Task, register
from benchmarks.learning_to_optimize.tasks.sources import small_cifar, windows

CONTEXT = 32
ALPHABET = 83  # characters of the novel


class TransformerBlock(nn.Module):
    """Attention and an MLP, each behind a LayerNorm, on a residual stream."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # [b t width] -> the same
        """Apply the block."""
        b, t, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class VisionTransformer(nn.Module):
    """Patches, learned positions, blocks, the mean over patches, a linear layer."""

    def __init__(self, size: int = 16, patch: int = 4, width: int = 32, depth: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Embedding((size // patch) ** 2, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # [b 3 size size] -> [b classes]
        """Logits of images."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions.weight
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class CharacterTransformer(nn.Module):
    """GPT in small: characters and positions embedded, causal blocks, logits of the next character."""

    def __init__(self, alphabet: int = ALPHABET, context: int = CONTEXT, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, 4, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, alphabet)

    def forward(self, x: Tensor) -> Tensor:  # int64 [b t] -> [b t alphabet]
        """Logits of the character after each."""
        stream = self.characters(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(stream)))


register(
    Task(
        "vit",
        "held-out",
        "ViT of 2 blocks of 32, patches of 4, CIFAR-10 16x16",
        "cifar10",
        VisionTransformer,
        partial(small_cifar, 16),
        16,
    )
)
register(
    Task(
        "gpt",
        "held-out",
        "GPT of 2 blocks of 32, characters of Moby Dick",
        "moby-dick",
        CharacterTransformer,
        partial(windows, "moby-dick", CONTEXT),
        8,
        metric=BITS,
    )
)
