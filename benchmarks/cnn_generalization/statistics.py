"""The baseline that reads no graph: gradient-boosted trees on statistics of the weights, layer by layer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cnn_generalization.accuracy import Accuracy, logit
from benchmarks.cnn_generalization.kinds import KINDS, kinds
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.folder import claim
from benchmarks.weight_space.samples import Samples, Stack, counts
from ngopt.encoder.structure import ACTIVATIONS

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDS = {"smoke": 20}  # trees; the best number is chosen on validation
MOST_ROUNDS = 400
RATE = 0.05  # learning rate


def features(samples: Samples) -> np.ndarray:  # [net, feature]
    """Mean, standard deviation and quantiles of every parameter, one after the other.

    Where architectures have different parameters: those of the first and the last one, in the order of their graph, and
    mean, least and largest over all of them; of each of `KINDS` apart. Further features are the numbers of
    parameters, of layers, and of neurons by activation.
    """
    names = {tuple(stack.params) for stack in samples.stacks}
    parts = [_of_stack(stack, aggregate=len(names) > 1) for stack in samples.stacks]
    return torch.cat(parts).double().numpy()


def _of_stack(stack: Stack, aggregate: bool) -> Tensor:  # [net, feature]
    kind_of, found = kinds(stack.graph), []
    for kind in KINDS:
        of_kind = [name for name in kind_of if kind_of[name] == kind]
        rows = torch.stack([_statistics(stack.params[name]) for name in of_kind], 1) if of_kind else None
        if not aggregate:
            found += [] if rows is None else [rows.flatten(1)]
        elif rows is None:
            found.append(torch.full((len(stack), 5 * (2 + len(QUANTILES))), torch.nan))  # the trees know missing values
        else:
            found.append(torch.cat([rows[:, 0], rows[:, -1], rows.mean(1), rows.amin(1), rows.amax(1)], 1))
    sizes = torch.tensor(
        [float(sum(p[0].numel() for p in stack.params.values())), float(list(kind_of.values()).count("weight"))]
    )
    counts = [sum(g.size for g in stack.graph.groups if name in g.activations) for name in ACTIVATIONS]
    shared = torch.cat([sizes, torch.tensor(counts, dtype=torch.float32)])
    return torch.cat([*found, shared.expand(len(stack), -1)], 1)


def _statistics(p: Tensor) -> Tensor:  # [net, *shape] -> [net, 2 + quantile]
    flat = p.flatten(1).float().cpu()
    quantiles = torch.from_numpy(np.quantile(flat.numpy(), QUANTILES, axis=1).T).float()  # torch's has a limit of size
    return torch.cat([flat.mean(1, keepdim=True), flat.std(1, correction=0)[:, None], quantiles], 1)


def fit_trees(config: Config, task: Accuracy, splits: dict[str, Samples], folder: Path) -> dict[str, Any]:
    """Fit on the training networks, choose the number of trees by tau on validation, test; as `Trainer.run`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    claim(folder, config)
    started = time.perf_counter()
    features_of = _same_features(splits)
    rounds = ROUNDS.get(config.size, MOST_ROUNDS)
    model = HistGradientBoostingRegressor(
        learning_rate=RATE, max_iter=rounds, early_stopping=False, random_state=config.seed
    )
    model.fit(features_of["train"], logit(splits["train"].targets).numpy())
    seconds = time.perf_counter() - started
    stages = [torch.from_numpy(y).sigmoid() for y in model.staged_predict(features_of["val"])]
    history = [task.summary({"predicted": y}, splits["val"]) for y in stages]
    best = max(range(rounds), key=lambda k: history[k][task.metric])
    values = {}
    for name in (name for name in splits if name not in ("train", "val")):
        stages = list(model.staged_predict(features_of[name]))
        values[name] = {"predicted": torch.from_numpy(stages[best]).sigmoid()}
    return {
        "test": task.summary(values["test"], splits["test"]),
        "val": history[best],
        "best_epoch": best + 1,
        "parameters": 0,
        "steps": rounds,
        "skipped_steps": 0,
        "seconds": round(seconds, 2),
        "networks_per_second": round(len(splits["train"]) / seconds, 2),
        **counts(splits),
        "history": [],  # trees are no epochs
        **task.details(values, splits),
    }


def _same_features(splits: dict[str, Samples]) -> dict[str, np.ndarray]:
    """Features of all splits, of the same form in all of them."""
    whole = Samples(tuple(s for samples in splits.values() for s in samples.stacks), torch.zeros(0))
    rows = features(whole)
    ends = np.cumsum([len(samples) for samples in splits.values()])
    found = dict(zip(splits, np.split(rows, ends[:-1]), strict=True))
    known = ~np.isnan(found["train"]).all(0)  # of kinds that some training network has
    return {name: some[:, known] for name, some in found.items()}
