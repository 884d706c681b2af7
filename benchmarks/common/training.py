"""One network in training, advanced some steps at a time, so that several can take turns and be timed fairly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_train.data import Split

TAIL = 50  # steps that the final loss is averaged over
EVALUATION_BATCH = 1000


class Steps(Protocol):
    """What a training loop needs of an optimizer."""

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def step(self) -> object:
        """Change the parameters."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> Tensor:  # int64 [steps batch]
    """Indices of every batch of a run: a fresh shuffle per epoch, the last part of one epoch filled from the next."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-steps * batch_size // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    return order[: steps * batch_size].view(steps, batch_size)


class Loop:
    """One network, one optimizer, one order of batches, whatever the data and the loss.

    Args:
        model: Trained in place.
        optimizer: For its parameters.
        loss: Of the model on the examples with these indices; a scalar with a graph behind it.
        order: From `batch_order`, on the device of the data.
    """

    def __init__(
        self, model: nn.Module, optimizer: Steps, loss: Callable[[nn.Module, Tensor], Tensor], order: Tensor
    ) -> None:
        self.model, self.optimizer, self.loss, self.order = model, optimizer, loss, order
        self.losses: list[float] = []
        self.seconds = 0.0  # of training, evaluation left out
        self.cpu_seconds = 0.0  # the same in processor time, which other processes do not lengthen

    @property
    def done(self) -> bool:
        """Whether all batches were used."""
        return len(self.losses) == len(self.order)

    def advance(self, steps: int) -> None:
        """Make up to so many more steps."""
        started, cpu_started = time.perf_counter(), time.process_time()
        losses = []
        for indices in self.order[len(self.losses) : len(self.losses) + steps]:
            self.optimizer.zero_grad()
            loss = self.loss(self.model, indices)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.losses += torch.stack(losses).tolist() if losses else []  # waits for the device, so the time is whole
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started


class Run(Loop):
    """A `Loop` on labelled images.

    Args:
        model: Trained in place.
        optimizer: For its parameters.
        split: The data, on the model's device.
        order: From `batch_order`.
    """

    def __init__(self, model: nn.Module, optimizer: Steps, split: Split, order: Tensor) -> None:
        super().__init__(model, optimizer, self._cross_entropy, order.to(split.train_x.device))
        self.split = split

    def _cross_entropy(self, model: nn.Module, indices: Tensor) -> Tensor:
        return F.cross_entropy(model(self.split.train_x[indices]), self.split.train_y[indices])

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the test images, in percent, that the network gets right."""
        training = self.model.training
        self.model.eval()
        parts = zip(self.split.test_x.split(EVALUATION_BATCH), self.split.test_y.split(EVALUATION_BATCH), strict=True)
        right = sum(int((self.model(x).argmax(1) == y).sum()) for x, y in parts)
        self.model.train(training)
        return 100.0 * right / len(self.split.test_y)


def mean_loss(losses: list[float]) -> float:
    """Mean over the whole run: low if it was fast all along."""
    return sum(losses) / len(losses)


def final_loss(losses: list[float]) -> float:
    """Mean over the last `TAIL` steps."""
    tail = losses[-TAIL:]
    return sum(tail) / len(tail)


def running_mean(losses: list[float], window: int = TAIL) -> np.ndarray:
    """Mean of the last ``window`` losses at every step from step ``window`` on; shorter runs use one window."""
    window = min(window, len(losses))
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    return (sums[window:] - sums[:-window]) / window


def steps_to(losses: list[float], target: float, window: int = TAIL) -> int | None:
    """The first step whose running mean is at most ``target``, counted from 1; None if there is none."""
    reached = np.nonzero(running_mean(losses, window) <= target)[0]
    return int(reached[0]) + min(window, len(losses)) if len(reached) else None


def fastest_threads(model: nn.Module, split: Split, batch_size: int, steps: int = 12) -> int:
    """How many threads train this network fastest here and now, by a short trial of one thread and of torch's default.

    Small networks gain little from threads, and on a machine that is busy they lose much.
    """
    default = torch.get_num_threads()
    seconds = {}
    for threads in sorted({1, default}):
        torch.set_num_threads(threads)
        trial = Run(
            model,
            torch.optim.SGD(model.parameters(), lr=0.0),
            split,
            batch_order(len(split.train_y), batch_size, 2 * steps, 0),
        )
        trial.advance(steps)  # the first steps prepare kernels and threads
        trial.seconds = 0.0
        trial.advance(steps)
        seconds[threads] = trial.seconds
    torch.set_num_threads(default)
    return min(seconds, key=seconds.__getitem__)
