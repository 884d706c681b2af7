"""Baselines: a perceptron on all weights in a row, which knows nothing of symmetry, and one on what networks answer."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inr_data.siren import Params

STD_FLOOR = 1e-6


class ProbeMLP(nn.Module):
    """Runs networks on learned inputs, and reads their outputs by an MLP: every symmetry is kept, no weight is seen.

    Args:
        module: The networks' architecture: takes one tensor ``[sample, *input]``, gives ``[sample, channel]``.
        example: An input; probes start as uniform in its range.
        probes: How many.
        outputs: Size of the vector.
        width: Of the hidden layers.
        dropout: After every hidden layer.
    """

    def __init__(
        self, module: nn.Module, example: Tensor, probes: int, *, outputs: int, width: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if probes < 1 or width < 1:
            raise ValueError(f"ProbeMLP needs at least one probe and a positive width, not {probes=}, {width=}.")
        low, high = example.min(), example.max()
        self.inputs = nn.Parameter(low + (high - low) * torch.rand(probes, *example.shape[1:]))
        self._module = [module]  # in a list, so that its parameters are not ours
        size = probes * module(example[:1]).shape[1]
        hidden = [(size, width), (width, width)]
        layers = [[nn.Linear(a, b), nn.SiLU(), nn.Dropout(dropout)] for a, b in hidden]
        self.body = nn.Sequential(
            nn.LayerNorm(size), *[x for group in layers for x in group], nn.Linear(width, outputs)
        )

    def fit_statistics(self, graph: Any, params: Params) -> None:
        """Nothing: answers are normalised one by one."""

    def forward(self, graph: Any, params: Params) -> Tensor:  # [net, output]
        """Read networks of one architecture, ``params``: name -> ``[net, *shape]``; ``graph`` is not looked at."""
        run = torch.func.vmap(lambda one: torch.func.functional_call(self._module[0], one, (self.inputs,)))
        return self.body(run(dict(params)).flatten(1))


class FlatMLP(nn.Module):
    """Weights, each tensor normalised, flattened, through an MLP; the same interface as the metanetworks.

    Args:
        shapes: Of the parameters of the networks that it reads.
        task: "classify" or "edit". An edit starts as no change at all: the last layer starts at zero.
        outputs: Number of classes; unused for edits.
        width: Of the hidden layers.
        layers: Number of linear layers.
        dropout: After every hidden layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        *,
        task: str,
        outputs: int,
        width: int = 512,
        layers: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if task not in ("classify", "edit") or width < 1 or layers < 1:
            raise ValueError(f"FlatMLP has no task={task!r}, width={width}, layers={layers}; see its docstring.")
        self.task, self.shapes = task, dict(shapes)
        size = sum(prod(shape) for shape in shapes.values())
        widths = [size] + [width] * (layers - 1)
        hidden = [[nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)] for a, b in pairwise(widths)]
        last = nn.Linear(widths[-1], outputs if task == "classify" else size)
        if task == "edit":
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.body = nn.Sequential(*[module for group in hidden for module in group], last)
        self.register_buffer("mean", torch.zeros(len(shapes)))
        self.register_buffer("std", torch.ones(len(shapes)))

    @torch.no_grad()
    def fit_statistics(self, graph: Any, params: Params) -> None:
        """Take mean and standard deviation of each tensor over the training networks."""
        self.mean.copy_(torch.stack([params[name].mean() for name in self.shapes]))
        self.std.copy_(torch.stack([params[name].std(correction=0) for name in self.shapes]).clamp_min(STD_FLOOR))

    def forward(self, graph: Any, params: Params) -> Tensor | Params:
        """Logits ``[net, class]``, or new parameters ``name -> [net, 1, *shape]``; ``graph`` is not looked at."""
        rows = [(params[n] - m) / s for n, m, s in zip(self.shapes, self.mean, self.std, strict=True)]
        output = self.body(torch.cat([row.flatten(1) for row in rows], dim=1))
        if self.task == "classify":
            return output
        parts = output.split([prod(shape) for shape in self.shapes.values()], dim=1)
        edits = zip(self.shapes, parts, self.std, strict=True)
        return {n: (params[n] + part.view_as(params[n]) * s).unsqueeze(1) for n, part, s in edits}
