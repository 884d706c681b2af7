"""Fit many networks at once: Adam with short memories, on whole images or on coarse grids that move from step to step.

`benchmarks.inr_data.kinds` has the recipes, and how they were chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inr_data.gradient import SirenGradient
from benchmarks.inr_data.siren import OMEGA, Params, render

CPU_BATCH, CPU_LARGEST, GPU_BATCH = 8, 64, 4096  # networks at once: a CPU's caches hold the activations of few
LEAST_ERROR = 1e-20  # 200 dB: no error has no logarithm


@dataclass(frozen=True)
class Recipe:
    """How a network is fitted."""

    steps: int = 60
    lr: float = 1e-2
    betas: tuple[float, float] = (0.8, 0.9)
    warmup: int = 5  # steps
    eps: float = 1e-12
    rates: tuple[float, ...] | None = None  # a share of ``lr`` for each parameter, in order; None: all of it
    every: int = 1  # a step sees one of so many rows and columns: see `SirenGradient`

    def lr_at(self, step: int) -> float:
        """Linear from zero, times half a cosine wave to zero."""
        return self.lr * min(1.0, (step + 1) / self.warmup) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def fit(
    images: Tensor,  # [net, channel, height, width], from 0 to 1
    start: Params,
    recipe: Recipe,
    omega: float = OMEGA,
) -> tuple[Params, Tensor]:  # parameters and [net] PSNR in dB, on the images' device
    """Fit each network to its image, some at a time."""
    on_cpu = images.device.type == "cpu"
    batch = min(CPU_BATCH * recipe.every**2, CPU_LARGEST) if on_cpu else GPU_BATCH
    fitted, quality = [], []
    for at in range(0, len(images), batch):
        part = images[at : at + batch]
        params = {name: tensor[at : at + batch].to(images) for name, tensor in start.items()}
        params = _fit_batch(part, params, recipe, omega)
        fitted.append(params)
        quality.append(psnr(params, part, omega))
    return {name: torch.cat([params[name] for params in fitted]) for name in start}, torch.cat(quality)


def psnr(params: Params, images: Tensor, omega: float = OMEGA) -> Tensor:  # [net]
    """Peak signal to noise ratio of rendered images, not clipped, in dB."""
    error = render(params, images.shape[2], images.shape[3], omega) - images
    return -10 * error.square().mean((1, 2, 3)).clamp_min(LEAST_ERROR).log10()


def _fit_batch(images: Tensor, start: Params, recipe: Recipe, omega: float) -> Params:
    flat = torch.cat([tensor.flatten(1) for tensor in start.values()], dim=1)  # [net, parameter]
    gradient, mean, square = (torch.zeros_like(flat) for _ in range(3))
    params, gradients = _views(flat, start), _views(gradient, start)
    compute = SirenGradient(images, start["seq.1.weight"].shape[-1], omega, recipe.every)
    shares = zip(start.values(), recipe.rates or [1.0] * len(start), strict=True)
    share = torch.cat([tensor.new_full((tensor[0].numel(),), rate) for tensor, rate in shares])
    beta1, beta2 = recipe.betas
    for step in range(recipe.steps):
        compute(params, gradients, step)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2 ** (step + 1))).sqrt_().add_(recipe.eps)
        flat.addcdiv_(mean * share, root, value=-recipe.lr_at(step) / (1 - beta1 ** (step + 1)))
    return params


def _views(flat: Tensor, like: Params) -> Params:
    """The parameters in a matrix with a row for each network."""
    parts = flat.split([tensor[0].numel() for tensor in like.values()], dim=1)
    return {name: part.unflatten(1, tensor.shape[1:]) for part, (name, tensor) in zip(parts, like.items(), strict=True)}
