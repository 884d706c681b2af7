"""The networks that `benchmarks.cost.encoder` has encoders read. Weights are random: costs do not depend on them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

import ngopt
from benchmarks.cost.step_models import Residual
from benchmarks.inr_data.siren import Siren
from ngopt.graph.neural_graph import NeuralGraph

Params = Mapping[str, Tensor]
IMAGE = torch.randn(2, 1, 16, 16)


@dataclass(frozen=True)
class Batch:
    """Networks to read, stacked by architecture.

    Attributes:
        name: What they are.
        stacks: Graph, and parameters and learned buffers, name -> ``[net, *shape]``, of each architecture.
    """

    name: str
    stacks: tuple[tuple[NeuralGraph, Params], ...]

    def __len__(self) -> int:
        return sum(len(next(iter(params.values()))) for _, params in self.stacks)

    def networks(self) -> list[tuple[NeuralGraph, Params]]:
        """One by one: graph, and name -> ``[*shape]``."""
        return [
            (graph, {name: x[k] for name, x in params.items()})
            for graph, params in self.stacks
            for k in range(len(next(iter(params.values()))))
        ]

    def first(self, count: int) -> Batch:
        """The first networks of each architecture."""
        stacks = [(graph, {name: x[:count] for name, x in params.items()}) for graph, params in self.stacks]
        return replace(self, stacks=tuple(stacks))

    def alone(self) -> list[Batch]:
        """One network of each architecture, each in a batch of its own."""
        return [replace(self, stacks=(stack,)) for stack in self.first(1).stacks]


def inrs(count: int, device: str) -> Batch:
    """SIRENs as they are fitted to MNIST, 2-32-32-1."""
    return Batch(f"{count} MNIST INRs", (_stack(Siren(), torch.randn(4, 2), count, device),))


def cnns(count: int, device: str) -> Batch:
    """CNNs of the Small CNN Zoo: three 3 x 3 convolutions of 16 channels, pooling, 10 classes; 4,970 parameters.

    Unterthiner et al., Predicting Neural Network Accuracy from Weights, 2020.
    """
    return Batch(f"{count} small CNNs", (_stack(_cnn([16, 16, 16], 3), IMAGE, count, device),))


def mixture(architectures: int, copies: int, device: str) -> Batch:
    """Random architectures of all kinds in turn, all of them different, and ``copies`` networks of each."""
    generator, stacks, seen = random.Random(0), [], set()
    while len(stacks) < architectures:
        draw = DRAWS[len(stacks) % len(DRAWS)]
        graph, params = _stack(*draw(generator), copies, device)
        if graph.fingerprint() not in seen:
            seen.add(graph.fingerprint())
            stacks.append((graph, params))
    return Batch(f"{architectures} architectures, {copies} of each", tuple(stacks))


def _stack(module: nn.Module, example: Tensor, count: int, device: str) -> tuple[NeuralGraph, Params]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = ngopt.trace(module, example, certify=False, scalings=True)
    state = {name: x for name, x in module.state_dict().items() if x.is_floating_point()}
    return graph, {name: x + 0.1 * torch.randn(count, *x.shape, device=device) for name, x in state.items()}


def _cnn(channels: Sequence[int], kernel: int) -> nn.Sequential:
    pairs = pairwise([1, *channels])
    body = [m for n, k in pairs for m in (nn.Conv2d(n, k, kernel, 2, kernel // 2), nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


class Mixer(nn.Module):
    """One block of an MLP mixer on patches: tokens, then channels, each with a shortcut."""

    def __init__(self, width: int, hidden: int, tokens: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.tokens = nn.Sequential(nn.Linear(tokens, hidden), nn.GELU(), nn.Linear(hidden, tokens))
        self.channels = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, 1, 16, 16]`` to logits."""
        x = self.patch(x).flatten(2).mT  # [batch, token, channel]
        x = x + self.tokens(self.norms[0](x).mT).mT
        x = x + self.channels(self.norms[1](x))
        return self.head(self.norms[2](x).mean(1))


Drawn = tuple[nn.Module, Tensor]  # a network, and an input of it


def _draw_siren(generator: random.Random) -> Drawn:
    return Siren(generator.choice([1, 3]), generator.randint(16, 48), generator.randint(2, 4)), torch.randn(4, 2)


def _draw_cnn(generator: random.Random) -> Drawn:
    channels = [generator.randint(8, 20) for _ in range(generator.randint(2, 4))]
    return _cnn(channels, generator.choice([3, 5])), IMAGE


def _draw_transformer(generator: random.Random) -> Drawn:
    heads, size = generator.choice([2, 4]), generator.randint(3, 6)
    layer = nn.TransformerEncoderLayer(
        heads * size, heads, generator.randint(16, 40), dropout=0.0, batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, generator.randint(1, 2), enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(8, heads * size), encoder, nn.Linear(heads * size, 10)), torch.randn(2, 5, 8)


def _draw_resnet(generator: random.Random) -> Drawn:
    width, wide = generator.randint(6, 12), generator.randint(8, 16)
    stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [Residual(width, width, 1), Residual(width, wide, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 10)), IMAGE


def _draw_mixer(generator: random.Random) -> Drawn:
    return Mixer(generator.randint(8, 20), generator.randint(16, 40)), IMAGE


DRAWS: tuple[Callable[[random.Random], Drawn], ...] = (
    _draw_siren,
    _draw_cnn,
    _draw_transformer,
    _draw_resnet,
    _draw_mixer,
)
