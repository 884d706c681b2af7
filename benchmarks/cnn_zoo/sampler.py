"""Architectures of the wild zoo, drawn at random."""

from __future__ import annotations

import torch

from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.layers import Conv, TokenBlock
from benchmarks.cnn_zoo.networks import ACTIVATIONS
from meta_train.tasks.drawing import chance, choice, integer

KERNELS = (3, 3, 3, 5, 5, 7)
TRAINED_NORMS = ("none", "none", "batch", "batch", "layer")
CHANNELS = (4, 8, 12, 16, 24, 32, 48, 64)
WIDER = (80, 96, 128)
LAYERS = {"wider": (2, 5), "deeper": (9, 12)}  # least and most
OTHER_LAYERS = (2, 8)
TOKENS = 0.08  # share of networks of tokens
LIMIT = 600_000  # multiplications per image; see `Architecture.multiplications`
LIMITS = {"wider": 2_000_000}


def sample(
    generator: torch.Generator,
    image: tuple[int, int, int],
    split: str = "train",
) -> Architecture:
    """Draw an architecture; one that costs more than `LIMIT` is drawn again.

    Args:
        generator: Decides about all.
        image: Channels, height, width.
        split: ``wider``, ``deeper`` and ``other-norm`` are as ``train``, but for the one thing; all others are as
            ``train``, which also has some networks of tokens.
    """
    in_distribution = split not in ("wider", "deeper", "other-norm")
    limit = LIMITS.get(split, LIMIT) * image[1] ** 2 // 256
    tokens = in_distribution and chance(generator, TOKENS)
    first, last = LAYERS.get(split, OTHER_LAYERS)
    depth = integer(generator, first, last + 1)  # once: what costs too much must not make networks shallow
    while True:
        found = _of_tokens(generator, image) if tokens else _of_convolutions(generator, image, split, depth)
        if found.multiplications() <= limit:
            return found


def _of_convolutions(generator: torch.Generator, image: tuple[int, int, int], split: str, depth: int) -> Architecture:
    largest = integer(generator, 2, len(CHANNELS) + 1)  # else hardly a network would be narrow in all layers
    widths = WIDER if split == "wider" else CHANNELS[:largest]
    norm = "group" if split == "other-norm" else choice(generator, TRAINED_NORMS)
    residual = chance(generator, 0.5)
    side, layers = image[1], []
    for i in range(depth):
        stride = 2 if side > 2 and chance(generator, 0.7 if i < 2 else 0.4) else 1
        side = (side - 1) // stride + 1
        kernel = choice(generator, KERNELS if side > 2 else KERNELS[:1])
        source = integer(generator, 0, i - 1) if residual and i > 1 and chance(generator, 0.5) else None
        activation = choice(generator, tuple(ACTIVATIONS))
        layers.append(Conv(choice(generator, widths), kernel, stride, kernel // 2, activation, norm, source))
    head = "flatten" if side <= 8 and chance(generator, 0.4) else "pool"
    family = "CNN" if norm == "none" else f"CNN {norm} norm"
    return Architecture(family, image, tuple(layers), head)


def _of_tokens(generator: torch.Generator, image: tuple[int, int, int]) -> Architecture:
    patch, heads = choice(generator, (image[1] // 4, image[1] // 2)), choice(generator, (1, 2, 4))
    width, depth = choice(generator, (16, 24, 32, 48)), integer(generator, 1, 4)
    kinds = choice(generator, (("mix",), ("attend",), ("mix", "attend")))
    blocks = tuple(
        TokenBlock(
            choice(generator, kinds), choice(generator, (16, 32, 64)), choice(generator, ("gelu", "relu")), heads
        )
        for _ in range(depth)
    )
    kinds = {block.kind for block in blocks}
    family = "hybrid" if len(kinds) == 2 else {"mix": "mixer", "attend": "ViT"}[kinds.pop()]
    return Architecture(family, image, patch=patch, width=width, blocks=blocks)
