"""SIRENs (Sitzmann et al., 2020): images as networks from coordinates to colours, one or many at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

HIDDEN, LAYERS, OMEGA = 32, 3, 30.0
Params = dict[str, Tensor]  # name -> [net, *shape]: the parameters of many networks of one architecture


class Siren(nn.Module):
    """One network, with the parameter names of the published data sets: ``seq.0.weight``, ``seq.0.bias``, ..."""

    def __init__(self, channels: int = 1, hidden: int = HIDDEN, layers: int = LAYERS, omega: float = OMEGA) -> None:
        super().__init__()
        self.omega = omega
        sizes = [2, *[hidden] * (layers - 1), channels]
        self.seq = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(sizes))
        self.load_state_dict(state(initial(1, channels, torch.default_generator, hidden, layers, omega), 0))

    def forward(
        self,
        coords: Tensor,  # [pixel, 2]
    ) -> Tensor:  # [pixel, channel]
        """Colours at coordinates: ``sin(omega * linear)`` between layers; black to white is 0 to 1."""
        for layer in self.seq[:-1]:
            coords = torch.sin(self.omega * layer(coords))
        return self.seq[-1](coords) + 0.5


def shapes(channels: int, hidden: int = HIDDEN, layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of one network: its architecture."""
    sizes = [2, *[hidden] * (layers - 1), channels]
    found: dict[str, tuple[int, ...]] = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        found |= {f"seq.{i}.weight": (fan_out, fan_in), f"seq.{i}.bias": (fan_out,)}
    return found


def initial(
    count: int,
    channels: int,
    seed: int | torch.Generator = 0,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    omega: float = OMEGA,
    small: bool = False,
) -> Params:
    """Random networks: weights as Sitzmann et al. draw them, biases as `nn.Linear` does.

    Args:
        count: How many.
        channels: Of the image.
        seed: Or a generator on the CPU.
        hidden: Neurons per hidden layer.
        layers: Linear layers.
        omega: See `Siren`.
        small: Biases start at zero, and the first layer is drawn as the others are, as Navon et al. (2023) do.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    layout = shapes(channels, hidden, layers)
    bounds = _bounds(layout, omega, small)
    return {n: (2 * torch.rand(count, *s, generator=generator) - 1) * bounds[n] for n, s in layout.items()}


def initial_each(seeds: Sequence[int], channels: int, small: bool = False) -> Params:
    """``initial(1, channels, seed, small=small)`` of each seed, stacked: the same bits, several times as fast."""
    layout, generator = shapes(channels), torch.Generator()
    sizes = [prod(shape) for shape in layout.values()]
    uniform = torch.empty(len(seeds), sum(sizes))
    for row, seed in zip(uniform, seeds, strict=True):
        torch.rand(len(row), generator=generator.manual_seed(seed), out=row)
    parts, bounds = (2 * uniform - 1).split(sizes, dim=1), _bounds(layout, OMEGA, small)
    return {n: p.unflatten(1, s) * bounds[n] for p, (n, s) in zip(parts, layout.items(), strict=True)}


def _bounds(layout: dict[str, tuple[int, ...]], omega: float, small: bool) -> dict[str, float]:
    """Largest value of each parameter at the start."""
    bounds, fan_in = {}, 2
    for name, shape in layout.items():  # each weight, then its bias
        if name.endswith("bias"):
            bounds[name] = 0.0 if small else fan_in**-0.5
        else:
            fan_in = shape[1]
            bounds[name] = 1 / fan_in if name == "seq.0.weight" and not small else (6 / fan_in) ** 0.5 / omega
    return bounds


def coordinates(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:  # [height * width, 2]
    """Pixels in reading order, from -1 to 1: which row, which column."""
    rows, columns = torch.linspace(-1, 1, height, device=device), torch.linspace(-1, 1, width, device=device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)


def render(params: Params, height: int, width: int, omega: float = OMEGA) -> Tensor:  # [net, channel, height, width]
    """Images of many networks at once; it can be differentiated through."""
    weight = params["seq.0.weight"]
    x = coordinates(height, width, weight.device).to(weight).T.expand(len(weight), 2, -1)
    layers = len(params) // 2
    for i in range(layers):
        x = torch.baddbmm(params[f"seq.{i}.bias"].unsqueeze(-1), params[f"seq.{i}.weight"], x)  # [net, out, pixel]
        x = torch.sin(omega * x) if i + 1 < layers else x + 0.5
    return x.unflatten(-1, (height, width))


def state(params: Params, index: int) -> dict[str, Tensor]:
    """State dict of one network."""
    return {name: tensor[index] for name, tensor in params.items()}
