"""Optimizers by name: rivals with tuned settings, and learned ones, which run at one setting everywhere.

A learned optimizer is there when its weights are. To add one, register a function of model and horizon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ngopt
from benchmarks.common.rivals import RIVALS
from benchmarks.common.training import Steps
from meta_train.rules import feed_forward
from ngopt.optim.saving.checkpoint import SHIPPED, SUFFIX

BASE = "AdamW"  # speed-ups are over this one
UNTUNED = "Prodigy"  # the rival whose learning rate nobody tunes
NGOPT = "NGOptimizer"
UNTRAINED = "NGOptimizer-untrained"
NO_GRAPH = "NGOptimizer-no-graph"
RAW_SHAPES = "NGOptimizer-raw-shapes"
NO_MODEL = "NGOptimizer-no-model"
HORIZON = " horizon "
LR = " lr "
BY_TRAIN_LOSS = " by train loss"
RECALIBRATION = 50  # batches for BatchNorm's statistics at averaged weights


@dataclass(frozen=True)
class Learned:
    """A learned optimizer.

    Args:
        name: Of its rows.
        title: In tables.
        make: From a model, the length of the run, and ``lr`` where it is not as it comes.
        settings: What its rows record, so that rows of other weights are run again.
        there: Whether its weights exist.
        small_only: Too costly for all but small tasks.
    """

    name: str
    title: str
    make: Callable[..., Steps]
    settings: Callable[[], dict[str, Any]]
    there: Callable[[], bool]
    small_only: bool = False


LEARNED: dict[str, Learned] = {}


def register(learned: Learned) -> None:
    """Add a learned optimizer."""
    LEARNED[learned.name] = learned


def available() -> list[str]:
    """Names of all optimizers that can run now, rivals first."""
    return [*RIVALS, *(name for name, learned in LEARNED.items() if learned.there())]


def row_name(name: str, *, horizon_share: float = 1.0, lr: float = 1.0, by_train_loss: bool = False) -> str:
    """Name of an optimizer's rows: its own, and what is not as usual; `own_name` is the inverse."""
    horizon = f"{HORIZON}{horizon_share:.0%}" if horizon_share != 1.0 else ""
    return name + horizon + (f"{LR}{lr:g}" if lr != 1.0 else "") + BY_TRAIN_LOSS * by_train_loss


def own_name(row_name: str) -> str:
    """The optimizer behind the name of a row."""
    return row_name.removesuffix(BY_TRAIN_LOSS).split(LR)[0].split(HORIZON)[0]


def title(row_name: str) -> str:
    """As tables and pictures call it."""
    own, share = own_name(row_name), row_name.partition(HORIZON)[2]
    words = LEARNED[own].title if own in LEARNED else f"{own}, {'schedule tuned' if own == UNTUNED else 'tuned'}"
    return words + (f", horizon {share}" if share else "") + (" on train loss" if BY_TRAIN_LOSS in row_name else "")


def state_bytes(optimizer: Any) -> int:
    """Bytes of all tensors in the state of an optimizer, or of several that a `Rival` holds."""
    tensors: dict[int, Tensor] = {}

    def collect(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors[id(value)] = value
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)

    for single in getattr(optimizer, "optimizers", [optimizer]):
        for state in getattr(single, "state", {}).values():
            collect(state)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@contextmanager
def evaluating(optimizer: Any, model: nn.Module, forward: Callable[[int], Any]) -> Iterator[None]:
    """Be at the weights that are to be evaluated; where these are averages, with BatchNorm's statistics made for them.

    Args:
        optimizer: Of the model.
        model: Its BatchNorm statistics are measured again if the weights are averages.
        forward: A training-mode forward pass on the i-th of some training batches.
    """
    if not getattr(optimizer, "averages", False):
        yield
        return
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with optimizer.evaluating():
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        with torch.no_grad():
            for at in range(RECALIBRATION if norms else 0):
                forward(at)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        yield


def _shipped(name: str) -> bool:
    return (SHIPPED / (name + SUFFIX)).is_file()


def _checkpoint(name: str) -> dict[str, Any]:
    return {"pretrained": name, "sha256": _sha256(SHIPPED / (name + SUFFIX))}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _ngoptimizer(pretrained: str, model: nn.Module, total_steps: int, **options: float) -> Steps:
    return ngopt.NGOptimizer(model, total_steps=total_steps, pretrained=pretrained, **options)


def _raw_shapes(pretrained: str, model: nn.Module, total_steps: int, **options: float) -> Steps:
    return ngopt.NGOptimizer(model, total_steps=total_steps, pretrained=pretrained, graph=False, **options)


def _no_model(pretrained: str, model: nn.Module, total_steps: int, **options: float) -> Steps:
    return ngopt.NGOptimizer(model.parameters(), total_steps=total_steps, pretrained=pretrained, **options)


def _feed_forward_settings() -> dict[str, Any]:
    return {"pretrained": feed_forward.SHIPPED.stem, "sha256": _sha256(feed_forward.SHIPPED)}


# Without messages between neurons: controls read off each tensor alone, trained that way with the same budget.
# Raw shapes: the same rule untrained on every tensor in the shape that it has, with no roles, views or blocks from the
# graph. No model: what a user gets who passes parameters alone.
for name, words, make, pretrained, small in (
    (NGOPT, "NGOptimizer", _ngoptimizer, "ngopt-base", False),
    (NO_MODEL, "NGOptimizer, no model", _no_model, "ngopt-base", False),
    (NO_GRAPH, "NGOptimizer, no graph", _ngoptimizer, "ngopt-base-no-graph", False),
    (UNTRAINED, "NGOptimizer, untrained", _ngoptimizer, "ngopt-base-untrained", False),
    (RAW_SHAPES, "NGOptimizer, untrained, raw shapes", _raw_shapes, "ngopt-base-untrained", False),
    ("NGOptimizer-ng-gnn", "NGOptimizer, NG-GNN", _ngoptimizer, "ngopt-base-ng-gnn", True),
    ("NGOptimizer-ng-t", "NGOptimizer, NG-T", _ngoptimizer, "ngopt-base-ng-t", True),
):
    register(
        Learned(
            name,
            words,
            partial(make, pretrained),
            partial(_checkpoint, pretrained),
            partial(_shipped, pretrained),
            small,
        )
    )
register(
    Learned("feed-forward", "feed-forward", feed_forward.make_optimizer, _feed_forward_settings, feed_forward.available)
)
