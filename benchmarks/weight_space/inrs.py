"""The implicit networks of a run; the few of size smoke are fitted on the spot when they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ngopt
from benchmarks.inr_data.dataset import InrSet, load
from benchmarks.inr_data.making import Job, make
from benchmarks.inr_data.plan import SETS, folder
from benchmarks.inr_data.siren import Siren, coordinates
from benchmarks.weight_space.config import Config, ConfigError
from benchmarks.weight_space.session import Problem
from benchmarks.weight_space.tasks import make_task
from meta_train.data import DataMissingError


def networks_folder(config: Config, root: Path | None) -> Path:
    """Where the networks of a run lie."""
    dataset, init = SETS[config.dataset]
    return folder(dataset, config.size, root, init)


def load_networks(config: Config, root: Path | None) -> dict[str, InrSet]:
    """Networks of the splits "train", "val" and "test".

    Raises:
        DataMissingError: There are none, and they are too many to fit in passing; the message says how to.
    """
    dataset, init = SETS[config.dataset]
    try:
        return load(dataset, config.size, root, init=init)
    except DataMissingError:
        if config.size != "smoke":
            raise
    make(Job(dataset, config.size, root=root, init=init))
    return load(dataset, config.size, root, init=init)


def make_problem(config: Config, sets: Mapping[str, InrSet]) -> Problem:
    """Task, and networks that share one graph.

    Raises:
        ConfigError: The set has fewer fits of each image than are asked for.
    """
    task, inrs = make_task(config, sets), sets["train"]
    if (has := int(inrs.copy.max()) + 1) < config.fits:
        raise ConfigError(
            f"--fits asks for {config.fits} of each training image; {config.dataset}-{config.size} has {has}. "
            f"Make more: benchmarks.inr_data fit ... --augment {config.fits - 1}."
        )
    sets = {**sets, "train": inrs.subset(inrs.copy < config.fits)}
    module, example = Siren(inrs.channels, omega=inrs.omega), coordinates(inrs.height, inrs.width)
    graph = ngopt.trace(module, (example,), scalings=True)
    return Problem(task, {name: task.samples(some, graph) for name, some in sets.items()}, module, example)
