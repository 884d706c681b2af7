"""From settings to the model: a metanetwork of ngopt, or a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import ngopt.encoder
from benchmarks.weight_space.baselines import FlatMLP, ProbeMLP
from benchmarks.weight_space.config import MLPS, Config, ConfigError
from benchmarks.weight_space.samples import Samples, Stack
from benchmarks.weight_space.suites import SUITES
from benchmarks.weight_space.tasks import Task
from ngopt.encoder.flow_reader import FlowBase

FLOAT32_ONLY = (FlowBase,)  # read phases of many turns, of which bfloat16 keeps too few digits
MEASURED_FROM = 64  # networks of one architecture, from which on their own normalisation is worth measuring


def measured(samples: Samples) -> list[Stack]:
    """Stacks whose statistics a metanetwork keeps; all other architectures are normalised by their fan-in."""
    return [stack for stack in samples.stacks if len(samples.stacks) == 1 or len(stack) >= MEASURED_FROM]


def build_model(
    config: Config,
    train: Samples,
    task: Task,
    module: nn.Module | None = None,
    example: Tensor | None = None,
    known: Sequence[Stack] | None = None,
) -> nn.Module:
    """The model of a run, with initial weights from its seed.

    Args:
        config: Settings.
        train: Training networks; only their graphs and shapes matter.
        task: What is learned.
        module: The networks' architecture, and an input of it, which probes are run through.
        example: See ``module``.
        known: Stacks whose statistics are kept; by default `measured`.

    Raises:
        ConfigError: The encoder does not take one of the options.
    """
    torch.manual_seed(config.seed)
    options = config.encoder_options()
    if config.encoder == "probe_mlp":
        if module is None or example is None:
            raise ConfigError("probe_mlp runs networks, and there is none to run here.")
        try:
            return ProbeMLP(module, example, options.pop("probes"), outputs=task.outputs, **options)
        except TypeError as error:
            raise ConfigError(f"probe_mlp does not take the options {options}: {error}") from error
    graphs = [stack.graph for stack in (measured(train) if known is None else known)]
    try:
        if config.encoder in MLPS:
            (stack,) = train.stacks
            shapes = {name: tuple(p.shape[1:]) for name, p in stack.params.items()}
            return FlatMLP(shapes, task=task.kind, outputs=task.outputs, **options)
        if config.faithful and SUITES[config.suite].many:
            faithful = SUITES[config.suite].module.FAITHFUL[config.encoder]
            return faithful(graphs, train.stacks[0].graph, outputs=task.outputs, **options)
        return ngopt.encoder.metanetwork(
            graphs,
            task=task.kind,
            outputs=task.outputs,
            encoder=config.encoder,
            faithful=config.faithful,
            module=module,
            example=example,
            **options,
        )
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"{config.encoder} does not take the options {options}: {error}") from error
