"""The baseline that knows nothing of symmetry: a multilayer perceptron on all weights in a row."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inr_data.siren import Params

STD_FLOOR = 1e-6


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
