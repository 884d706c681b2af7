"""Train a small network on scikit-learn's wines, and draw its neurons and weights before and after.

python examples/draw_network.py --out docs/images/neural_graph.png
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_wine
from torch import nn

import ngopt
from ngopt.graph.drawing_neurons import draw_neurons


def main(argv: Sequence[str] | None = None) -> float:
    """Train, draw, print and return the training accuracy."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("network.png"))
    options = parser.parse_args(argv)

    wines = load_wine()
    inputs = torch.tensor(wines.data, dtype=torch.float32)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    labels = torch.tensor(wines.target)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    before = copy.deepcopy(model.state_dict())
    optimizer = ngopt.NGOptimizer(model, total_steps=options.steps, weight_decay=0.03)
    for _ in range(options.steps):
        index = torch.randint(len(labels), (64,))
        loss = nn.functional.cross_entropy(model(inputs[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (model(inputs).argmax(1) == labels).float().mean().item()

    figure = Figure(figsize=(11, 4.6))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    assert optimizer.graph is not None
    draw_neurons(panels[0], optimizer.graph, before, "before training")
    draw_neurons(
        panels[1], optimizer.graph, model.state_dict(), f"after {options.steps} steps, accuracy {accuracy:.0%}"
    )
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.9, wspace=0.02)
    figure.savefig(options.out, dpi=130)
    print(f"training accuracy {accuracy:.1%}; picture: {options.out}")
    return accuracy


if __name__ == "__main__":
    main()
