"""Augmentation of implicit networks in their weights: every picture is moved, and every network written down, anew.

A network that computes f(W0 x + b0) shows at A x + t what the network with first layer (W0 A, W0 t + b0) shows at x, so
that rotating, scaling and shifting a picture is exact and costs two small products. Permutations of hidden neurons, and
sign flips (sine is odd), change weights but not the picture. Parameters are ``name -> [net, *shape]``, layers in order,
weights ``[net, out, in]``.

Noise is random here. The code published with [1] adds 0.1 standard deviations to every weight, without the random
factor that its name promises. Random noise of that strength drowns the picture (on MNIST the PSNR to what the networks
showed before is 9 dB, less than that of a grey square), so the preset has 0.01 (23 dB).

[1] Navon et al., Equivariant Architectures for Learning in Deep Weight Spaces, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Generator, Tensor

from benchmarks.inr_data.siren import Params
from benchmarks.weight_space.config import Config

# Which of `square` pictures may be moved by, by the setting ``symmetry``.
SYMMETRIES = {"mirror": (0, 4), "square": tuple(range(8))}


def layers(params: Params) -> list[tuple[str, str]]:
    """Names of weight and bias of each layer, first layer first."""
    weights = [name for name in params if name.endswith(".weight")]
    return [(name, name.removesuffix("weight") + "bias") for name in weights]


def draw(config: Config, count: int, generator: Generator) -> tuple[Tensor, ...]:
    """The random numbers of `moved`, of so many networks."""
    draws = [draw_motion(count, generator)] if config.augment else []
    if config.symmetry != "none":
        allowed = torch.tensor(SYMMETRIES[config.symmetry])
        draws.append(allowed[torch.randint(len(allowed), (count,), generator=generator)])
    return tuple(draws)


def moved(params: Params, targets: Tensor, config: Config, draws: Sequence[Tensor]) -> tuple[Params, Tensor]:
    """Networks that show moved pictures, and their targets, which move along if they are pictures too.

    Args:
        params: Of the networks.
        targets: Labels ``[net]``, or pictures ``[net, channel, height, width]``.
        config: Settings.
        draws: From `draw`, on the device of the networks.
    """
    rest = list(draws)
    if config.augment:
        params = move(params, *motion(rest.pop(0).to(next(iter(params.values()))), config))
    if config.symmetry != "none":
        which = rest.pop(0)
        params = move(params, square(targets.device)[which].to(next(iter(params.values()))))
        targets = turned(targets, which) if targets.ndim == 4 else targets
    return params, targets


def disturbed(params: Params, config: Config, generator: Generator) -> Params:
    """What else the settings ask for: noise, and other ways to write the same network."""
    if config.augment:
        params = add_noise(params, config.noise, generator)
        params = drop(params, config.drop, generator)
    if config.permute:
        params = permute(params, random_orders(params, generator))
    if config.flip:
        params = flip(params, random_signs(params, generator))
    return params


def disturbs(config: Config) -> bool:
    """Whether the settings ask for more than moves."""
    return bool((config.augment and (config.noise or config.drop)) or config.permute or config.flip)


@cache
def square(device: torch.device) -> Tensor:  # [8, 2, 2]
    """Quarter turns of the square; then the same after a mirror, left to right."""
    turns = [((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0))]
    mirrored = [tuple((y, -x) for y, x in turn) for turn in turns]
    return torch.tensor([*turns, *mirrored], dtype=torch.float32, device=device)


@cache
def _pixels(size: int, device: torch.device) -> Tensor:  # [8, size * size]
    """Which pixel lies where each of `square` takes a pixel."""
    place = 2 * torch.arange(size, device=device) - (size - 1.0)
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1).reshape(-1, 2)
    row, column = ((grid @ square(device).mT + size - 1) / 2).round().long().unbind(-1)
    return row * size + column


def turned(
    pictures: Tensor,  # [net, channel, size, size]
    which: Tensor,  # [net], of `square`
) -> Tensor:
    """Pictures that show at x what the given ones show at ``square[which] @ x``.

    Raises:
        ValueError: The pictures are not square.
    """
    height, width = pictures.shape[2:]
    if height != width:
        raise ValueError(f"Pictures of {height} x {width} cannot be turned: leave out --symmetry.")
    index = _pixels(height, pictures.device)[which][:, None].expand(-1, pictures.shape[1], -1)
    return pictures.flatten(2).gather(2, index).view_as(pictures)


def draw_motion(count: int, generator: Generator) -> Tensor:  # [net, 4], from -1 to 1
    """The random numbers of `motion`."""
    return 2 * torch.rand(count, 4, generator=generator) - 1


def motion(uniform: Tensor, config: Config) -> tuple[Tensor, Tensor]:  # [net, 4] -> [net, 2, 2], [net, 2]
    """A scaled rotation and a shift for every network."""
    angle = uniform[:, 0] * math.radians(config.rotate)
    size = 1 + uniform[:, 1] * config.scale
    cosine, sine = size * angle.cos(), size * angle.sin()
    matrix = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
    return matrix, uniform[:, 2:] * config.translate


def move(
    params: Params,
    matrix: Tensor,  # [net, 2, 2]
    shift: Tensor | None = None,  # [net, 2]
) -> Params:
    """Networks that show at x what the given ones show at ``matrix @ x + shift``."""
    weight, bias = layers(params)[0]
    if shift is None:
        return params | {weight: params[weight] @ matrix}
    moved = {weight: params[weight] @ matrix, bias: params[bias] + (params[weight] @ shift[:, :, None]).squeeze(2)}
    return params | moved


def add_noise(params: Params, strength: float, generator: Generator) -> Params:
    """Add normal noise of so many standard deviations of each tensor of each network."""
    if strength == 0:
        return params
    return {name: p + strength * _spread(p) * _normal(p, generator) for name, p in params.items()}


def drop(params: Params, share: float, generator: Generator) -> Params:
    """Set a random share of all weights to zero."""
    if share == 0:
        return params
    return {
        name: p * (torch.rand(p.shape, generator=generator) >= share).to(p.device, p.dtype)
        for name, p in params.items()
    }


def random_orders(params: Params, generator: Generator) -> list[Tensor]:
    """For each hidden layer an order of its neurons per network, ``[net, neuron]``."""
    hidden = [params[bias] for _, bias in layers(params)[:-1]]
    return [torch.rand(b.shape, generator=generator).argsort(1).to(b.device) for b in hidden]


def permute(params: Params, orders: list[Tensor]) -> Params:
    """Renumber hidden neurons; the networks compute what they computed before."""
    changed = dict(params)
    names = layers(params)
    for order, (weight, bias), (reader, _) in zip(orders, names, names[1:], strict=False):
        changed[weight] = changed[weight].take_along_dim(order[:, :, None], 1)
        changed[bias] = changed[bias].take_along_dim(order, 1)
        changed[reader] = changed[reader].take_along_dim(order[:, None, :], 2)
    return changed


def random_signs(params: Params, generator: Generator) -> list[Tensor]:
    """For each hidden layer +1 or -1 per neuron and network, ``[net, neuron]``."""
    hidden = [params[bias] for _, bias in layers(params)[:-1]]
    return [(2.0 * torch.randint(2, b.shape, generator=generator) - 1).to(b) for b in hidden]


def flip(params: Params, signs: list[Tensor]) -> Params:
    """Change signs of hidden neurons, where they are written and where they are read: sin(-x) = -sin(x)."""
    changed = dict(params)
    names = layers(params)
    for sign, (weight, bias), (reader, _) in zip(signs, names, names[1:], strict=False):
        changed[weight] = changed[weight] * sign[:, :, None]
        changed[bias] = changed[bias] * sign
        changed[reader] = changed[reader] * sign[:, None, :]
    return changed


def _spread(p: Tensor) -> Tensor:  # [net, *shape] -> [net, 1, ...]
    """Standard deviation of each network's tensor; none for a single number."""
    flat = p.flatten(1)
    return flat.std(1, correction=0).view(-1, *[1] * (p.ndim - 1))


def _normal(p: Tensor, generator: Generator) -> Tensor:
    return torch.randn(p.shape, generator=generator).to(p)
