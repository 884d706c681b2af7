"""Train a small network on handwritten digits in a plain loop, with `torch.optim.AdamW` or with `ngopt.NGOptimizer`.

    python examples/plain_loop.py
    python examples/plain_loop.py --optimizer adamw

The digits come with scikit-learn; nothing is downloaded. Apart from the one line that builds the optimizer, the loop is
the same for both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ngopt


def load_data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels: 1,437 and 360 images of 8 by 8."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, test = order[:1437], order[1437:]
    return images[train], labels[train], images[test], labels[test]


def make_model() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def main(argv: Sequence[str] | None = None) -> float:
    """Train, print the loss as it falls, and return the test accuracy."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--optimizer", choices=["ngopt", "adamw"], default="ngopt")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    torch.manual_seed(options.seed)
    images, labels, test_images, test_labels = load_data(options.seed)
    model = make_model()

    if options.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    else:
        optimizer = ngopt.NGOptimizer(model, total_steps=options.steps)

    for step in range(options.steps):
        rows = torch.randint(len(images), (options.batch,))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step:4d}  loss {loss.item():.4f}")

    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
