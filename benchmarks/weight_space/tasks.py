"""What is learned: tasks of one protocol, which is all that the training loop knows.

The two here are of implicit networks; `benchmarks.cnn_generalization.accuracy` has a third.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.inr_data.dataset import InrSet
from benchmarks.inr_data.siren import Params, render
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.samples import Samples, Stack, finite_samples
from benchmarks.weight_space.targets import TARGETS
from ngopt.graph.neural_graph import NeuralGraph

CLASSES = 10  # of all data sets
SMALLEST_MSE = 1e-12  # 120 dB; keeps the PSNR of an exact picture finite


class Task(Protocol):
    """What the training loop needs to know of a task."""

    kind: str  # of head that the metanetwork gets
    outputs: int
    metric: str  # among those of `summary`, by which the best epoch is chosen
    higher_is_better: bool

    def loss(self, output: Any, targets: Tensor) -> Tensor:
        """Mean over the networks."""
        ...

    def measure(self, output: Any, samples: Samples) -> dict[str, Tensor]:
        """Values per network ``[net]``."""
        ...

    def summary(self, values: Mapping[str, Tensor], samples: Samples) -> dict[str, float]:
        """Measures of a split, from what was measured of each of its networks."""
        ...

    def details(self, values: Mapping[str, Mapping[str, Tensor]], splits: Mapping[str, Samples]) -> dict[str, Any]:
        """What else a row says about the tests: of the test splits what was measured, and all splits; JSON."""
        ...

    def saved(self, train: Samples) -> dict[str, Any]:
        """What one has to know, besides weights and settings, to use the best model; JSON."""
        ...


class MeanTask:
    """A task whose measures are means over networks, and that has nothing to add."""

    def summary(self, values: Mapping[str, Tensor], samples: Samples) -> dict[str, float]:
        """Means."""
        return {name: value.double().mean().item() for name, value in values.items()}

    def details(self, values: Mapping[str, Mapping[str, Tensor]], splits: Mapping[str, Samples]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def saved(self, train: Samples) -> dict[str, Any]:
        """Nothing."""
        return {}


class Classification(MeanTask):
    """Say which class the picture of a network belongs to."""

    kind, outputs, metric, higher_is_better = "classify", CLASSES, "accuracy", True

    def samples(self, inrs: InrSet, graph: NeuralGraph | None = None) -> Samples:
        """Networks of a split and their labels."""
        return finite_samples(Stack(graph, dict(inrs.params)), inrs.labels)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(output, targets)

    def measure(self, output: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Accuracy in percent, and cross entropy."""
        targets = samples.targets
        right = (output.argmax(1) == targets) & output.isfinite().all(1)
        return {"accuracy": 100.0 * right.float(), "loss": F.cross_entropy(output, targets, reduction="none")}


class Editing(MeanTask):
    """Change a network so that it shows the transformed picture.

    Args:
        transform: A name of `TARGETS`.
        height: Of the rendered pictures.
        width: Of the rendered pictures.
        omega: Frequency of the networks.
    """

    kind, outputs, metric, higher_is_better = "edit", 1, "mse", False

    def __init__(self, transform: str, height: int, width: int, omega: float) -> None:
        self.transform, self.height, self.width, self.omega = transform, height, width, omega

    def samples(self, inrs: InrSet, graph: NeuralGraph | None = None) -> Samples:
        """Networks of a split and target pictures, made from the original images and not from the networks."""
        return finite_samples(Stack(graph, dict(inrs.params)), TARGETS[self.transform](inrs.images().float()))

    def loss(self, output: Params, targets: Tensor) -> Tensor:
        """Mean squared error of the pictures."""
        return F.mse_loss(self.pictures(output), targets)

    def measure(self, output: Params, samples: Samples) -> dict[str, Tensor]:
        """Squared error, PSNR in decibels, and the squared error of leaving the networks as they are."""
        (stack,) = samples.stacks
        mse = _mse(self.pictures(output), samples.targets)
        nothing = _mse(self.render(stack.params), samples.targets)
        return {"mse": mse, "psnr": -10 * mse.clamp_min(SMALLEST_MSE).log10(), "mse_of_doing_nothing": nothing}

    def pictures(self, output: Params) -> Tensor:  # name -> [net, copy, *shape]; [net, channel, height, width]
        """Mean of the pictures that the copies show."""
        first = next(iter(output.values()))
        return self.render({n: p.flatten(0, 1) for n, p in output.items()}).unflatten(0, first.shape[:2]).mean(1)

    def render(self, params: Params) -> Tensor:  # name -> [net, *shape]; [net, channel, height, width]
        """What the networks show."""
        return render(params, self.height, self.width, self.omega)


def make_task(config: Config, sets: Mapping[str, InrSet]) -> Classification | Editing:
    """The task of a run."""
    if config.suite == "inr_classification":
        return Classification()
    inrs = sets["train"]
    return Editing(config.task, inrs.height, inrs.width, inrs.omega)


def _mse(a: Tensor, b: Tensor) -> Tensor:  # [net]
    return (a - b).square().flatten(1).mean(1)


def as_float32(output: Any) -> Any:
    """Outputs of a model under autocast, as the losses want them."""
    if isinstance(output, torch.Tensor):
        return output.float()
    return {name: value.float() for name, value in output.items()}
