"""Trained predictors of accuracy as files: safetensors, with all that they need to be used, and a card, in the header.

`SHIPPED` comes with the code. Others are made from runs:

python -m benchmarks.cnn_generalization save runs/cnn_generalization/wild-small/ng_gnn-seed0 wild.safetensors
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ngopt
from benchmarks.cnn_generalization.accuracy import Accuracy
from benchmarks.cnn_generalization.card import page
from benchmarks.cnn_generalization.problem import traced
from benchmarks.cnn_zoo import Architecture
from benchmarks.weight_space.config import BASELINES, Config, configure
from benchmarks.weight_space.models import build_model
from benchmarks.weight_space.samples import Samples, Stack
from benchmarks.weight_space.saving import best_of, config_of, save_command
from benchmarks.weight_space.session import ROW
from ngopt.errors import FileError, FrozenSymmetryWarning, NGOptError
from ngopt.files import read_json, write_text
from ngopt.tensor_files import check_like, read_tensors, reading, write_tensors

FORMAT = "ngopt-accuracy-predictor-1"
SHIPPED = Path(__file__).parent / "pretrained" / "wild-small.safetensors"
MOST_BYTES = 5_000_000  # of a file that can be shipped
CARD = ("command", "test", "shifted", "intervals", "networks", "left_out", "versions")  # of a row
LIMITS = (
    "It read small classifiers of 10 classes, trained on the images of one zoo: what it says is the accuracy to expect "
    "on those images. Networks of other images, sizes, classes or recipes are outside of what it has seen, and "
    "nothing warns of that. An accuracy from weights alone never replaces a test on data."
)


class PredictorError(NGOptError, ValueError):
    """A file or a network cannot be used; the message says why, and what to do."""


class Predictor:
    """Predicts the test accuracy of a classifier from its weights.

    Args:
        model: The metanetwork.
        task: What its outputs mean.
        scalings: Whether networks are read in their canonical form.
        card: What is known about it.
    """

    def __init__(self, model: nn.Module, task: Accuracy, scalings: bool, card: dict[str, Any]) -> None:
        self.model, self.task, self.scalings, self.card = model.eval(), task, scalings, card

    @torch.no_grad()
    def __call__(self, module: nn.Module, example: Tensor) -> float:
        """Predict the accuracy, from 0 to 1, of any module that can be traced.

        Args:
            module: The classifier; only its parameters and learned buffers are read.
            example: An input of it, ``[image, channel, height, width]``; only its shape matters.

        Raises:
            PredictorError: Weights are not finite, or the tracer froze a part of the architecture.
            ngopt.errors.TraceError: The module fails on the example.
        """
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
        if bad:
            raise PredictorError(
                f"{', '.join(bad[:5])} hold NaN or infinity: such a network has no accuracy to predict."
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            graph = ngopt.trace(module, example, scalings=self.scalings)
        if frozen := [str(w.message) for w in caught if issubclass(w.category, FrozenSymmetryWarning)]:
            raise PredictorError(
                f"The tracer froze a part of this architecture, and no network of the zoo is like that: {frozen[0]}"
            )
        weight = next(self.model.parameters())
        blocks = (*graph.blocks, *graph.buffers)
        params = {block.name: state[block.name].detach()[None].to(weight) for block in blocks}
        return self.task.predicted(self.model(graph, params).float()).item()


def save(run: Path, path: Path) -> Path:
    """Make one file of a run that has ended, and beside it a page with its card.

    Args:
        run: Its directory.
        path: File to write.

    Raises:
        PredictorError: The run has not ended, has no metanetwork, or is too large; or the file is not to be one of
            safetensors, and its page might take its place.
    """
    if path.suffix != ".safetensors":
        raise PredictorError(f"{path} should end in .safetensors: its page, which ends in .md, is written beside it.")
    config = config_of(run, "cnn_generalization", PredictorError)
    if config.suite != "cnn_generalization" or config.encoder in BASELINES or config.faithful:
        raise PredictorError(
            f"{run} is a run of {config.suite}, {config.encoder}: predictors are metanetworks of ngopt."
        )
    row = read_json(run / ROW)
    tensors, found = best_of(run, MOST_BYTES, PredictorError)
    card = write(path, tensors, config, found["task"], {name: row[name] for name in CARD if name in row})
    write_text(path.with_suffix(".md"), page(path.stem, card))
    return path


def write(
    path: Path, tensors: dict[str, Tensor], config: Config, units: dict[str, Any], card: dict[str, Any]
) -> dict[str, Any]:
    """Write a predictor's file; returns its card.

    Args:
        path: Of the file.
        tensors: The model's state.
        config: Of the run; the model is built from it.
        units: See `Accuracy.saved`.
        card: What is known about it; what it may be used for is added.
    """
    card = {"zoo": config.dataset, "size": config.size, "limits": LIMITS} | card
    write_tensors(path, tensors, {"format": FORMAT, "config": asdict(config), "card": card, **units})
    return card


def load(path: Path = SHIPPED) -> Predictor:
    """Read a predictor that `save` wrote; by default the one that is shipped, of the wild zoo.

    Raises:
        PredictorError: There is no such file, or it is not one of these.
    """
    if not path.is_file():
        raise PredictorError(
            f"There is no {path}. Train a predictor and make a file of it:\n"
            "  python -m benchmarks.cnn_zoo make wild --size small\n"
            "  python -m benchmarks.cnn_generalization run --zoo wild --size small --encoder ng_gnn\n"
            f"  python -m benchmarks.cnn_generalization save runs/cnn_generalization/wild-small/ng_gnn-seed0 {path}"
        )
    try:
        with reading(path):
            tensors, header = read_tensors(path)
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, not {FORMAT!r}")
            config = configure(**header["config"])
            task = Accuracy(header["centre"], header["scale"])
            model = _model(config, task, [Architecture.from_json(a) for a in header["architectures"]])
            check_like(tensors, model.state_dict(), path)
            model.load_state_dict(tensors)
    except (FileError, OSError) as error:
        raise PredictorError(f"{path} is not a predictor that this ngopt can read ({error}). Save it again.") from error
    if bad := [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]:
        raise PredictorError(f"{path}: {', '.join(bad[:5])} hold NaN or infinity. Save it again.")
    return Predictor(model, task, config.sign, header["card"])


def _model(config: Config, task: Accuracy, architectures: Sequence[Architecture]) -> nn.Module:
    """A model whose normalisation has a place for these architectures."""
    stacks = []
    for architecture in architectures:
        graph = traced(architecture, config.sign)
        blocks = (*graph.blocks, *graph.buffers)
        stacks.append(Stack(graph, {b.name: torch.empty(0, *b.shape) for b in blocks}, architecture=architecture))
    return build_model(config, Samples(tuple(stacks), torch.zeros(0)), task, known=stacks)


def main(argv: Sequence[str] | None = None) -> None:
    """Save a predictor."""
    save_command("cnn_generalization", save, PredictorError, argv)
