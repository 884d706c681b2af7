"""From settings to the model: a metanetwork of ngopt, or a baseline."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ngopt.encoder
from benchmarks.weight_space.baselines import FlatMLP
from benchmarks.weight_space.config import MLPS, Config, ConfigError
from benchmarks.weight_space.tasks import Task
from ngopt.graph.neural_graph import NeuralGraph


def build_model(
    config: Config, graph: NeuralGraph, task: Task, module: nn.Module | None = None, example: Tensor | None = None
) -> nn.Module:
    """The model of a run, with initial weights from its seed.

    Args:
        config: Settings.
        graph: Of the networks.
        task: What is learned.
        module: The networks' architecture, and an input of it, which probes are run through.
        example: See ``module``.

    Raises:
        ConfigError: The encoder does not take one of the options.
    """
    torch.manual_seed(config.seed)
    options = config.encoder_options()
    try:
        if config.encoder in MLPS:
            shapes = {block.name: block.shape for block in graph.blocks}
            return FlatMLP(shapes, task=task.kind, outputs=task.outputs, **options)
        return ngopt.encoder.metanetwork(
            graph,
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
