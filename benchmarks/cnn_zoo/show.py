"""What is in a zoo: a table, and a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.cnn_zoo.bucket import Bucket
from benchmarks.cnn_zoo.images import Images
from benchmarks.cnn_zoo.wild import evaluate
from benchmarks.common.ranks import tau_b

CHECKED = 4  # networks per split that are built and tested again
CURVES = 40  # runs per split
TESTS = 10  # that are imagined
TOLERANCE = 0.01  # of accuracies: another machine rounds in another way


def table(zoo: dict[str, list[Bucket]]) -> str:
    """Counts and accuracies per split, and networks per family."""
    lines = [f"{'split':12}{'networks':>9}{'runs':>7}{'accuracy min':>14}{'median':>8}{'max':>7}"]
    families: Counter[str] = Counter()
    for split, buckets in zoo.items():
        accuracy = torch.cat([bucket.accuracy for bucket in buckets])
        runs = len(torch.cat([bucket.run for bucket in buckets]).unique())
        lines.append(
            f"{split:12}{len(accuracy):9}{runs:7}{accuracy.min():14.3f}{accuracy.median():8.3f}{accuracy.max():7.3f}"
        )
        for bucket in buckets:
            families[bucket.architecture.family] += len(bucket)
    return "\n".join([*lines, "", *(f"{family:20}{count:7}" for family, count in families.most_common())])


def ceiling(accuracy: Tensor, images: int) -> float:  # [net]
    """Kendall's tau-b of the true accuracies, about: who predicted them could not order measured ones any better.

    Measured accuracies take the place of the true ones, which are spread a little less, and other test images are drawn
    from the binomial distribution.
    """
    random, true = np.random.default_rng(0), accuracy.double().numpy()
    return float(np.mean([tau_b(true, random.binomial(images, true) / images) for _ in range(TESTS)]))


def check(zoo: dict[str, list[Bucket]], images: Images) -> int:
    """Build some networks of each split, and test them again; returns how many.

    Raises:
        ValueError: An accuracy is not the recorded one.
    """
    checked = 0
    for split, buckets in zoo.items():
        for bucket in buckets[:: max(1, len(buckets) // CHECKED)][:CHECKED]:
            at = len(bucket) - 1
            model = bucket.architecture.build()
            model.load_state_dict({name: tensor[at] for name, tensor in bucket.params.items()}, strict=False)
            accuracy, _ = evaluate(model, images.test_x, images.test_y)
            if abs(accuracy - float(bucket.accuracy[at])) > TOLERANCE:
                raise ValueError(
                    f"Run {int(bucket.run[at])} of {split} has accuracy {accuracy:.3f}, but {bucket.accuracy[at]:.3f} "
                    "is recorded. Make the zoo again."
                )
            checked += 1
    return checked


def picture(zoo: dict[str, list[Bucket]], path: Path, title: str) -> None:
    """Draw histograms of accuracies per split, and accuracies of some runs over their steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(title)
    edges = torch.linspace(0, 1, 41).tolist()
    for split, buckets in zoo.items():
        accuracy = torch.cat([bucket.accuracy for bucket in buckets])
        weights = torch.full_like(accuracy, 100 / len(accuracy))
        left.hist(accuracy.tolist(), edges, weights=weights.tolist(), histtype="step", linewidth=1.6, label=split)
    left.set(xlabel="test accuracy", ylabel="networks of the split (%)")
    left.legend(frameon=False)
    families = sorted({bucket.architecture.family for bucket in zoo["train"]})
    drawn = 0
    for bucket in zoo["train"]:
        for run in bucket.run.unique().tolist():
            one = bucket.subset(bucket.run == run)
            if drawn < CURVES and len(one) > 1:
                order, colour = one.step.argsort(), f"C{families.index(one.architecture.family)}"
                right.plot(one.step[order].tolist(), one.accuracy[order].tolist(), ".-", color=colour, alpha=0.5)
                drawn += 1
    for number, family in enumerate(families):
        right.plot([], [], color=f"C{number}", label=family)
    right.set(xlabel="step", ylabel="test accuracy")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
