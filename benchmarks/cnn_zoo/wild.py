"""One run of the wild zoo: draw an architecture, see that it can be traced, train it, keep some checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ngopt
from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.bucket import Bucket
from benchmarks.cnn_zoo.images import Images
from benchmarks.cnn_zoo.recipe import Recipe
from benchmarks.cnn_zoo.stack import MOMENTUM, batches, chunks
from meta_train.seeds import generator
from ngopt.errors import FrozenSymmetryWarning


def frozen_parts(architecture: Architecture) -> list[str]:
    """Why a predictor could not make full use of an architecture: what the tracer warned of, and frozen weights.

    Inputs, outputs and positions have identities of their own. A weight is frozen if both of its sides have.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = ngopt.trace(architecture.build(), architecture.example())
    found = [str(w.message) for w in caught if issubclass(w.category, FrozenSymmetryWarning)]
    frozen = torch.cat([torch.full((group.size,), group.frozen) for group in graph.groups])
    for block in graph.blocks:
        if block.col_nodes is not None and frozen[block.row_nodes].all() and frozen[block.col_nodes].all():
            found.append(f"{block.name} is frozen")
    return found


def train(
    architecture: Architecture,
    recipe: Recipe,
    fraction: float,
    images: Images,
    *,
    checkpoints: Sequence[int],
    batch: int,
    run: int,
    seed: int,
) -> Bucket:
    """Train one network, and keep what it was after some steps.

    Args:
        architecture: Of the network.
        recipe: How it is trained.
        fraction: Of the training images that it sees.
        images: To train and to test on; their device is the network's.
        checkpoints: Steps.
        batch: Images per step.
        run: Number of the run.
        seed: Of initial weights and of the order of images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.fresh().to(images.train_x.device)
    optimizer = _optimizer(model, recipe)
    count = max(1, int(fraction * len(images.train_y)))
    drawn = batches(count, batch, generator("order", seed))
    kept: list[tuple[dict[str, Tensor], float, float]] = []
    for step in range(1, checkpoints[-1] + 1):
        index = next(drawn).to(images.train_x.device)
        loss = F.cross_entropy(model(images.train_x[index]), images.train_y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in checkpoints:
            state = {name: x.detach().cpu().clone() for name, x in model.state_dict().items() if x.is_floating_point()}
            kept.append((state, *evaluate(model, images.test_x, images.test_y)))
    states, accuracies, losses = zip(*kept, strict=True)
    return Bucket(
        architecture,
        {name: torch.stack([state[name] for state in states]) for name in states[0]},
        torch.tensor(accuracies),
        torch.tensor(losses),
        torch.full((len(kept),), run),
        torch.tensor(checkpoints),
    )


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy from 0 to 1 and mean loss of a module in evaluation mode; its mode is left as it was.

    Args:
        model: The module.
        x: float32 [image, channel, height, width]
        y: int64 [image]
    """
    mode = model.training
    model.eval()
    logits = torch.cat([model(images) for images, _ in chunks(x, y)])
    model.train(mode)
    return float((logits.argmax(1) == y).float().mean()), float(F.cross_entropy(logits, y))


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """As in `TrainingStack`: weight decay is added to the gradients of weights, not of biases and norms."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.lr, momentum=MOMENTUM["sgd"])
    return {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[recipe.optimizer](groups, recipe.lr)
