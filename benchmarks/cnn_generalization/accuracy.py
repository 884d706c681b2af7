"""The task: from a network to its test accuracy, learned on the logit of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cnn_generalization.measures import intervals, measures
from benchmarks.weight_space.models import measured
from benchmarks.weight_space.samples import Samples

LOWEST, HIGHEST = 0.01, 0.995  # accuracies are cut off here, so that no logit is extreme
CNNS = "test, CNNs only"  # all that the published encoders can read
DRAWN = 400  # networks of each split that are kept for pictures


class Accuracy:
    """Predict accuracies. Outputs and targets are logits, less their mean, over their standard deviation in training.

    The loss is Huber's: the zoos have networks whose weights have all but diverged.

    Args:
        centre: Mean of the training networks' logits.
        scale: Their standard deviation.
        tokens: Whether some networks are of tokens, so that convolutional ones are to be measured on their own too.
    """

    kind, outputs, metric, higher_is_better = "classify", 1, "tau", True

    def __init__(self, centre: float, scale: float, tokens: bool = False) -> None:
        self.centre, self.scale, self.tokens = centre, scale, tokens

    @classmethod
    def of(cls, accuracy: Tensor, tokens: bool = False) -> Accuracy:  # [net]
        """The task for these training networks."""
        logits = logit(accuracy)
        return cls(logits.mean().item(), max(logits.std(correction=0).item(), 1e-3), tokens)

    def predicted(self, output: Tensor) -> Tensor:  # [net, 1] -> [net]
        """Accuracies from 0 to 1."""
        return (output.squeeze(1) * self.scale + self.centre).sigmoid()

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:  # [net, 1], and accuracies [net]
        """Huber's, of standardised logits."""
        return F.huber_loss(output.squeeze(1), (logit(targets) - self.centre) / self.scale)

    def measure(self, output: Tensor, samples: Samples) -> dict[str, Tensor]:
        """What is predicted."""
        return {"predicted": self.predicted(output)}

    def summary(self, values: Mapping[str, Tensor], samples: Samples) -> dict[str, float]:
        """Kendall's tau-b, R² and mean absolute error; see `measures`."""
        return measures(_numpy(values["predicted"]), _numpy(samples.targets))

    def details(self, values: Mapping[str, Mapping[str, Tensor]], splits: Mapping[str, Samples]) -> dict[str, Any]:
        """Measures of further test splits, intervals of all, and some single networks for pictures."""
        assert all(splits[name].runs is not None for name in values)
        scatter = {name: _some(_numpy(v["predicted"]), splits[name]) for name, v in values.items()}
        test = splits["test"]
        cnns = [self.tokens and bool(s.architecture.layers) for s in test.stacks for _ in range(len(s))]
        if any(cnns):
            chosen = torch.tensor(cnns, device=test.targets.device).nonzero().flatten()
            values = {CNNS: {name: v[chosen] for name, v in values["test"].items()}, **values}
            splits = {**splits, CNNS: test[chosen]}
        return {
            "shifted": {name: self.summary(v, splits[name]) for name, v in values.items() if name != "test"},
            "intervals": {
                name: intervals(_numpy(v["predicted"]), _numpy(splits[name].targets), splits[name].runs.cpu().numpy())
                for name, v in values.items()
            },
            "scatter": scatter,
        }

    def saved(self, train: Samples) -> dict[str, Any]:
        """Units of the outputs, and the architectures whose statistics the model keeps."""
        known = [stack.architecture.to_json() for stack in measured(train) if stack.architecture is not None]
        return {"centre": self.centre, "scale": self.scale, "architectures": known}


def logit(accuracy: Tensor) -> Tensor:
    """Log odds of accuracies, cut off near 0 and 1."""
    return accuracy.float().clamp(LOWEST, HIGHEST).logit()


def _some(predicted: np.ndarray, samples: Samples) -> dict[str, list]:
    """Evenly spaced networks of a split, in percent."""
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(DRAWN, len(samples))).astype(int))
    names = samples.families()
    known = sorted(set(names))
    return {
        "true": np.round(100 * _numpy(samples.targets)[chosen], 2).tolist(),
        "predicted": np.round(100 * predicted[chosen], 2).tolist(),
        "family": [known.index(names[k]) for k in chosen],
        "families": known,
    }


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()
