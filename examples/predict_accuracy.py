"""Guess how accurate a classifier is from its weights alone, and see how far such a guess can be trusted.

    python examples/predict_accuracy.py

The predictor has read networks that were trained on small colour photographs, CIFAR-10 at 16 x 16 pixels. The network
here learns other pictures, scikit-learn's grey digits in three equal channels, so take the numbers for an order at
best: a better trained network should be higher. The predictor cannot know how easy the digits are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks, which are not installed

from benchmarks.cnn_generalization.predictor import SHIPPED, PredictorError, load

SIDE = 16  # of the pictures of the wild zoo


def digits() -> tuple[Tensor, Tensor]:
    """Pictures ``[image, 3, SIDE, SIDE]``, grey in three equal channels, and labels ``[image]``."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(pictures).float().view(-1, 1, 8, 8) / 8 - 1
    pictures = F.interpolate(pictures, size=SIDE, mode="bilinear").expand(-1, 3, -1, -1)
    return pictures, torch.from_numpy(labels)


def network() -> nn.Module:
    """A small CNN like those of the zoo."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> list[tuple[int, float, float]]:
    """Train, and print after some steps what is predicted and what is true; returns the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", type=Path, default=SHIPPED, help="file to use; default: the shipped one")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 30, 100, 300, 1000], help="when to look")
    arguments = parser.parse_args(argv)
    try:
        predict = load(arguments.predictor)
    except PredictorError as error:
        parser.exit(1, f"{error}\n")
    print(predict.card["limits"])
    torch.manual_seed(0)
    (pictures, labels), model, rows = digits(), network(), []
    train, test = slice(0, 1400), slice(1400, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(max(arguments.steps) + 1):
        if step in arguments.steps:
            true = (model(pictures[test]).argmax(1) == labels[test]).float().mean().item()
            rows.append((step, predict(model, pictures[:1]), true))
            print(f"step {step}: predicted {rows[-1][1]:.3f} on the zoo's pictures; on these {true:.3f}")
        chosen = torch.randint(1400, (64,))
        loss = F.cross_entropy(model(pictures[train][chosen]), labels[train][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows


if __name__ == "__main__":
    main()
