"""What a task is: a network, data in three parts, a loss, and a test metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common.training import seed_everything

Group = Literal["paper", "held-out", "unseen"]
GROUPS: tuple[Group, ...] = ("paper", "held-out", "unseen")
SUITES: tuple[Group, ...] = ("held-out", "unseen")  # meta-training draws neither
Part = tuple[Tensor, Tensor]  # inputs [n ...] and targets [n ...]
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Metric:
    """A column of the tables, as a function of a batch.

    Args:
        name: With its unit.
        of: Sum over a batch's elements, and how many elements there are, from outputs and targets.
        scale: Factor on the mean.
        higher_is_better: Else lower.
    """

    name: str
    of: Callable[[Tensor, Tensor], tuple[Tensor, int]]
    scale: float = 1.0
    higher_is_better: bool = False


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:  # [... classes], [...] -> []
    """Mean cross-entropy, whatever the leading axes."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


ACCURACY = Metric("accuracy (%)", lambda o, y: ((o.argmax(-1) == y).sum(), y.numel()), 100.0, True)
BITS = Metric("bits per character", lambda o, y: (cross_entropy(o, y) * y.numel(), y.numel()), 1.0 / math.log(2.0))
MSE = Metric("mean squared error", lambda o, y: (F.mse_loss(o, y, reduction="sum"), y.numel()))


@dataclass(frozen=True)
class Data:
    """Examples. The last ``holdout`` training examples are the validation part, which tuning alone uses.

    Args:
        train: All training examples, validation included.
        test: Final runs are measured on these; tuning never asks for them.
        holdout: How many of the training examples are the validation part.
    """

    train: Part
    test: Part
    holdout: int

    def for_tuning(self) -> tuple[Part, Part]:
        """Training examples without the validation part, and the validation part."""
        end = len(self.train[0]) - self.holdout
        x, y = self.train
        return (x[:end], y[:end]), (x[end:], y[end:])

    def for_running(self) -> tuple[Part, Part]:
        """All training examples, and the test part."""
        return self.train, self.test


@dataclass(frozen=True)
class Task:
    """A thing to train.

    Args:
        name: As in the tables.
        group: ``paper``: the setting of papers on learned optimizers; ``held-out``: never drawn by meta-training;
            ``unseen``: the same, and kept from those who design the optimizer, see `suite.FIRST_LOOKED_AT`.
        about: A line for the tables.
        data_set: What ``load`` reads; parts of scikit-learn need no download.
        network: Makes the network, in whatever random state torch is.
        load: Reads the data.
        batch_size: Examples per step.
        objective: Mean loss of outputs and targets.
        metric: Measured on the test part.
        settings_of: Task whose tuned settings the rivals take over; "": its own.
        residual: Mean loss of the network, inputs and targets, in the place of ``objective``, where a loss is more than
            a function of the outputs.
    """

    name: str
    group: Group
    about: str
    data_set: str
    network: Callable[[], nn.Module]
    load: Callable[[], Data]
    batch_size: int
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    metric: Metric = ACCURACY
    settings_of: str = ""
    residual: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None

    def build(self, seed: int) -> nn.Module:
        """The network with initial weights of this seed; the same ones for every optimizer."""
        seed_everything(seed)
        return self.network()

    def batch(self, part: Part, indices: Tensor) -> Part:
        """Some examples."""
        return part[0][indices], part[1][indices]

    def loss(self, model: nn.Module, batch: Part) -> Tensor:
        """Mean loss of a batch, a scalar."""
        if self.residual is not None:
            return self.residual(model, *batch)
        return self.objective(model(batch[0]), batch[1])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, part: Part) -> tuple[float, float]:
        """Mean loss and metric of a whole part, in evaluation mode."""
        training = model.training
        model.eval()
        loss, total, count = 0.0, 0.0, 0
        for x, y in zip(part[0].split(EVALUATION_BATCH), part[1].split(EVALUATION_BATCH), strict=True):
            outputs = model(x)
            value, elements = self.metric.of(outputs, y)
            if self.residual is None:
                loss += float(self.objective(outputs, y)) * len(y)
            else:
                with torch.enable_grad():
                    loss += float(self.residual(model, x, y).detach()) * len(y)
            total += float(value)
            count += elements
        model.train(training)
        return loss / len(part[0]), self.metric.scale * total / count


TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Add a task to the suite."""
    if task.name in TASKS:
        raise ValueError(f"There are two tasks {task.name!r}.")
    TASKS[task.name] = task
    return task


def choose(words: Sequence[str]) -> list[Task]:
    """Tasks by name, by group, or all.

    Raises:
        ValueError: No such task.
    """
    names: dict[str, None] = {}
    for word in words:
        some = [t.name for t in TASKS.values() if word in ("all", t.group, t.name)]
        if not some:
            raise ValueError(f"There is no task {word!r}. Known: all, {', '.join(GROUPS)}, {', '.join(TASKS)}.")
        names |= dict.fromkeys(some)
    return sorted((TASKS[name] for name in names), key=lambda task: GROUPS.index(task.group))
