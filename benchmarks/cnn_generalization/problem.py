"""From the buckets of a zoo to stacks with a graph each; what cannot be used is left out, counted and named."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import ngopt
from benchmarks.cnn_generalization.accuracy import Accuracy
from benchmarks.cnn_generalization.faithful import FAITHFUL, readable
from benchmarks.cnn_generalization.statistics import fit_trees
from benchmarks.cnn_zoo import Bucket, load
from benchmarks.cnn_zoo.making import Job, make
from benchmarks.cnn_zoo.plan import folder, is_wild
from benchmarks.weight_space.config import Config
from benchmarks.weight_space.samples import NOT_FINITE, Samples, Stack, all_finite
from benchmarks.weight_space.session import Problem
from benchmarks.weight_space.suites import SHIFTED_ZOOS
from meta_train.data import DataMissingError
from ngopt.errors import FrozenSymmetryWarning
from ngopt.graph.neural_graph import NeuralGraph

NO_ACCURACY = "accuracy is not between 0 and 1"
FROZEN = "architecture was frozen in part by the tracer"
UNREADABLE = "the published encoders have no graph for the architecture"

__all__ = ["FAITHFUL", "fit_trees", "load_networks", "make_problem", "networks_folder"]  # what a suite has to have


def networks_folder(config: Config, root: Path | None) -> Path:
    """Where the zoo of a run lies."""
    return folder(config.dataset, config.size, root)


def load_networks(config: Config, root: Path | None) -> dict[str, list[Bucket]]:
    """Buckets of all splits; for a zoo of one architecture also the test splits of the others that are there.

    Raises:
        DataMissingError: There is no such zoo, and it is too large to make in passing; the message says how to.
    """
    try:
        sets = load(config.dataset, config.size, root)
    except DataMissingError:
        if config.size != "smoke":
            raise
        make(Job(config.dataset, config.size, root=root))
        sets = load(config.dataset, config.size, root)
    sets = dict(sets)
    for other in SHIFTED_ZOOS if config.dataset in SHIFTED_ZOOS and config.size != "smoke" else ():
        if other != config.dataset:
            try:
                sets[other] = load(other, config.size, root)["test"]  # an unseen data set
            except DataMissingError as error:
                tqdm.write(f"Not tested on {other}: {error}")
    return sets


def make_problem(config: Config, sets: Mapping[str, Sequence[Bucket]]) -> Problem:
    """Task and networks of a run.

    Raises:
        ValueError: A split has no network that can be used, or parameters are not what the architecture has.
    """
    can_read = readable if config.faithful else lambda graph: True
    splits = {name: make_samples(name, buckets, config.sign, can_read) for name, buckets in sets.items()}
    return Problem(Accuracy.of(splits["train"].targets, is_wild(config.dataset)), splits)


def make_samples(
    split: str,
    buckets: Sequence[Bucket],
    scalings: bool = False,
    readable: Callable[[NeuralGraph], bool] = lambda graph: True,
) -> Samples:
    """The networks of a split.

    Args:
        split: Its name, for messages.
        buckets: Of the zoo.
        scalings: Whether to look for sign and scale symmetries.
        readable: Whether the encoder can read a graph.

    Raises:
        ValueError: See `make_problem`.
    """
    stacks, targets, runs, left_out = [], [], [], {}
    for bucket in tqdm(buckets, desc=f"tracing {split}", unit="architecture", disable=len(buckets) < 20):
        graph = traced(bucket.architecture, scalings)
        problem = FROZEN if graph is None else "" if readable(graph) else UNREADABLE
        names = [f"run {run} step {step}" for run, step in zip(bucket.run.tolist(), bucket.step.tolist(), strict=True)]
        if graph is None or problem:
            left_out.setdefault(problem, []).extend(f"{name} ({bucket.architecture.describe()})" for name in names)
            continue
        params = _params(graph, bucket)
        finite, known = all_finite(params), (bucket.accuracy >= 0) & (bucket.accuracy <= 1)
        for why, bad in ((NOT_FINITE, ~finite), (NO_ACCURACY, finite & ~known)):
            if bad.any():
                left_out.setdefault(why, []).extend(names[k] for k in bad.nonzero().flatten().tolist())
        good = finite & known
        if good.any():
            family = bucket.architecture.family
            stacks.append(Stack(graph, params, family, bucket.architecture)[good])
            targets.append(bucket.accuracy[good].float())
            runs.append(bucket.run[good])
    if not stacks:
        reasons = "; ".join(f"{len(which)} left out, as {why}" for why, which in left_out.items()) or "it is empty"
        raise ValueError(f"Split {split} has no network that can be used ({reasons}). Make the zoo again, or larger.")
    left = {why: tuple(which) for why, which in left_out.items()}
    return Samples(tuple(stacks), torch.cat(targets), torch.cat(runs), left)


@cache  # half a second each, and seeds, splits and encoders share them
def traced(architecture: Any, scalings: bool) -> NeuralGraph | None:
    """The graph of an architecture; None if the tracer had to freeze something for want of a rule or a proof."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = ngopt.trace(architecture.build(), architecture.example(), scalings=scalings)
    frozen = [w for w in caught if issubclass(w.category, FrozenSymmetryWarning)]
    return None if frozen else graph


def _params(graph: NeuralGraph, bucket: Bucket) -> dict[str, Tensor]:
    """Parameters and learned buffers in the order of the graph.

    Raises:
        ValueError: One is missing, or is not of the shape that the architecture has.
    """
    blocks = (*graph.blocks, *graph.buffers)
    for block in blocks:
        found = bucket.params.get(block.name)
        if found is None or tuple(found.shape[1:]) != block.shape or len(found) != len(bucket.run):
            raise ValueError(
                f"'{block.name}' of {bucket.architecture.describe()} is "
                f"{'missing' if found is None else f'of shape {tuple(found.shape)}'}, and should be "
                f"{(len(bucket.run), *block.shape)}: the zoo's files and its manifest do not fit. Make the zoo again."
            )
    return {block.name: bucket.params[block.name] for block in blocks}
