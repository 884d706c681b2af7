"""Where the tasks' examples come from, each as the three parts that `Data` holds. Nothing is augmented."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.learning_to_optimize.tasks.base import Data
from meta_train.data import load, load_text, prepare

CIFAR_HOLDOUT = 5_000
SEED = 0  # of the shuffles that part small data sets


@lru_cache(maxsize=2)
def images(name: str) -> Data:
    """Images ``[n c h w]``, normalised by channel, and labels."""
    split = prepare(load(name))
    holdout = min(10_000, len(split.train_y) // 6)
    return Data((split.train_x, split.train_y), (split.test_x, split.test_y), holdout)


@lru_cache(maxsize=2)
def small_cifar(size: int, grey: bool = False) -> Data:
    """CIFAR-10 made smaller by averaging ``32 / size`` squares of pixels, and normalised again.

    Args:
        size: Height and width.
        grey: Mean of the three channels.
    """
    split = prepare(load("cifar10"))
    parts = [F.avg_pool2d(x.mean(1, keepdim=True) if grey else x, 32 // size) for x in (split.train_x, split.test_x)]
    train, test = standardised(*parts)
    return Data((train, split.train_y), (test, split.test_y), CIFAR_HOLDOUT)


@lru_cache(maxsize=2)
def windows(name: str, length: int) -> Data:
    """A text in windows that do not overlap: characters ``[n length]`` and the character after each.

    The last tenth is the test part, the last tenth of the rest the validation part, so that all three are apart.
    """
    text = load_text(name)
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text])
    count = (len(codes) - 1) // length
    x, y = codes[: count * length].view(count, length), codes[1 : count * length + 1].view(count, length)
    end = count - count // 10
    return Data((x[:end], y[:end]), (x[end:], y[end:]), end // 10)


def table(features: np.ndarray, labels: np.ndarray) -> Data:
    """A table in a seeded order: a fifth for the test, a fifth of the rest for validation; columns standardised."""
    order = np.random.default_rng(SEED).permutation(len(features))
    x, y = torch.from_numpy(features[order]).float(), torch.from_numpy(labels[order]).long()
    end = len(x) - len(x) // 5
    mean, std = x[:end].mean(0), x[:end].std(0)
    x = (x - mean) / std
    return Data((x[:end], y[:end]), (x[end:], y[end:]), end // 5)


def parted(x: Tensor, y: Tensor) -> Data:
    """The last sixth for the test, the sixth before it for validation; examples must be in a random order."""
    end = len(x) - len(x) // 6
    return Data((x[:end], y[:end]), (x[end:], y[end:]), len(x) // 6)


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and standard deviation 1 per channel of the training images ``[n c h w]``."""
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    return (train - mean) / std, (test - mean) / std
