"""What a network is, apart from its parameters: a value that is JSON, builds a module and knows its cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cnn_zoo.layers import Conv, TokenBlock, output_sides
from benchmarks.cnn_zoo.networks import ACTIVATIONS, NORMS, ConvNet, TokenNet
from meta_train.tasks.drawing import example_of


@dataclass(frozen=True)
class Architecture:
    """An architecture: either ``layers`` and ``head``, or ``patch``, ``width`` and ``blocks``."""

    family: str  # a short name, for colours in plots
    image: tuple[int, int, int]  # channels, height, width
    layers: tuple[Conv, ...] = ()
    head: str = "pool"  # or "flatten"
    patch: int = 0  # pixels on a side
    width: int = 0
    blocks: tuple[TokenBlock, ...] = ()
    classes: int = 10

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        fields = asdict(self)
        return fields | {name: list(fields[name]) for name in ("image", "layers", "blocks")}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Architecture:
        """Inverse of `to_json`.

        Raises:
            ValueError: This is not an architecture.
        """
        try:
            found = Architecture(
                **{
                    **fields,
                    "image": tuple(fields["image"]),
                    "layers": tuple(Conv(**layer) for layer in fields["layers"]),
                    "blocks": tuple(TokenBlock(**block) for block in fields["blocks"]),
                }
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"This is not an architecture ({error}): {fields}") from error
        parts = (*found.layers, *found.blocks)
        known = all(part.activation in ACTIVATIONS for part in parts) and all(c.norm in NORMS for c in found.layers)
        if not known or bool(found.layers) == bool(found.blocks) or found.head not in ("pool", "flatten"):
            raise ValueError(f"This is not an architecture: {fields}")
        return found

    def build(self) -> nn.Module:
        """A module with fresh parameters, in evaluation mode; the random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            return self.fresh().eval()

    def fresh(self) -> nn.Module:
        """A module with fresh parameters, in training mode, from PyTorch's generator."""
        if self.layers:
            return ConvNet(self.image, self.layers, self.head, self.classes)
        return TokenNet(self.image, self.patch, self.width, self.blocks, self.classes)

    def example(self) -> Tensor:  # [1, channel, height, width]
        """An input to trace with."""
        return example_of(1, *self.image)

    def describe(self) -> str:
        """On one line, for people."""
        if self.blocks:
            blocks = "-".join(f"{block.kind}{block.hidden}/{block.activation}" for block in self.blocks)
            return f"{self.family}: patch {self.patch}, width {self.width}, {blocks}"
        layers = " ".join(
            f"{layer.channels}k{layer.kernel}s{layer.stride}/{layer.activation}"
            + (f"+{layer.source}" if layer.source is not None else "")
            for layer in self.layers
        )
        return f"{self.family}: {layers} {self.head}"

    def multiplications(self) -> int:
        """Of one forward pass of one image; the small ones of heads, norms and shortcuts are left out."""
        if self.blocks:
            tokens = (self.image[1] // self.patch) ** 2
            across = {"mix": lambda b: 2 * self.width * b.hidden, "attend": lambda b: self.width * (4 * self.width)}
            within = [2 * self.width * block.hidden for block in self.blocks]
            scores = [2 * tokens * self.width if block.kind == "attend" else 0 for block in self.blocks]
            return tokens * (
                sum(across[block.kind](block) for block in self.blocks)
                + sum(within)
                + sum(scores)
                + self.image[0] * self.patch**2 * self.width
            )
        width, total = self.image[0], 0
        for layer, side in zip(self.layers, output_sides(self.layers, self.image[1]), strict=True):
            total += side**2 * layer.kernel**2 * width * layer.channels
            width = layer.channels
        return total


def small_cnn(activation: str, side: int) -> Architecture:
    """The 1-16-16-16-10 CNN of the published zoo: stride 2, no padding, mean of all pixels; 4,970 parameters."""
    layers = (Conv(16, 3, 2, 0, activation),) * 3
    return Architecture(f"small-{activation}", (1, side, side), layers)
