"""What layers are, apart from their parameters: values that are JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """One convolutional layer."""

    channels: int
    kernel: int
    stride: int
    padding: int
    activation: str
    norm: str = "none"
    source: int | None = None  # which earlier layer's output is added before the activation


@dataclass(frozen=True)
class TokenBlock:
    """One block of a network of tokens."""

    kind: str  # "mix" (MLP-Mixer) or "attend" (ViT)
    hidden: int
    activation: str
    heads: int = 1


def output_sides(
    layers: Sequence[Conv],
    side: int,  # of the image, in pixels
) -> list[int]:
    """Height (and width) of each layer's output in pixels."""
    sides = []
    for layer in layers:
        side = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        sides.append(side)
    return sides
