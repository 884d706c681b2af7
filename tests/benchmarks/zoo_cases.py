"""Small zoos for tests: networks of random weights, whose accuracies are made up from them."""

from __future__ import annotations

import torch

from benchmarks.cnn_zoo import Architecture, Bucket
from benchmarks.cnn_zoo.architecture import small_cnn
from benchmarks.cnn_zoo.bucket import param_shapes
from benchmarks.cnn_zoo.layers import Conv

SIDE = 8


def tiny(activation: str, norm: str = "none", channels: int = 4, head: str = "pool") -> Architecture:
    """Two convolutions."""
    layers = tuple(Conv(channels, 3, 2, 1, activation, norm) for _ in range(2))
    return Architecture(f"{activation} {norm}", (1, SIDE, SIDE), layers, head)


def bucket(architecture: Architecture, count: int, seed: int) -> Bucket:
    """Networks whose weights are as large as their accuracy; two checkpoints per run."""
    random = torch.Generator().manual_seed(seed)
    accuracy = torch.rand(count, generator=random)
    params = {}
    for name, shape in param_shapes(architecture).items():
        values = torch.randn(count, *shape, generator=random)
        size = 0.2 + accuracy.view(-1, *[1] * len(shape))
        params[name] = values.abs() + 0.1 if name.endswith("running_var") else 0.5 * size * values
    run = 100 * seed + torch.arange(count) // 2
    return Bucket(architecture, params, accuracy, 2.3 - accuracy, run, torch.arange(count) % 2)


def small(train: int = 16, seed: int = 0) -> dict[str, list[Bucket]]:
    """Two architectures, as in the small zoos."""
    counts = {"train": train, "val": 8, "test": 10}
    kinds = [small_cnn(activation, 15) for activation in ("relu", "tanh")]
    return {
        split: [bucket(kind, count, seed + 10 * k + j) for j, kind in enumerate(kinds)]
        for k, (split, count) in enumerate(counts.items())
    }


def wild() -> dict[str, list[Bucket]]:
    """An architecture for every few networks; normalisation, heads and widths differ."""
    kinds = {
        "train": [tiny("relu"), tiny("gelu", "batch"), tiny("tanh", head="flatten"), tiny("silu", "layer", 8)],
        "val": [tiny("relu", channels=6), tiny("tanh", "batch")],
        "test": [tiny("silu"), tiny("tanh", "batch", 6)],
        "wider": [tiny("relu", channels=12)],
    }
    return {
        split: [bucket(kind, 4, 10 * k + j) for j, kind in enumerate(some)]
        for k, (split, some) in enumerate(kinds.items())
    }
