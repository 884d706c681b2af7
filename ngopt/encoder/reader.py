"""Trained readers as files: a metanetwork for networks of one architecture, in safetensors, with a card in the header.

What architecture that is, is kept as the fingerprint of its graph, which any module that computes the same has, and as
names and shapes for error messages. Nothing is ever unpickled. `SHIPPED` come with ngopt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ngopt.encoder.metanetwork import metanetwork
from ngopt.errors import CheckpointError, FileError, GraphMismatchError
from ngopt.graph.certificate import default_dtype
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.trace import trace
from ngopt.tensor_files import check_finite, read_tensors, write_tensors

SHIPPED = Path(__file__).resolve().parent / "pretrained"
SUFFIX, FORMAT = ".safetensors", "ngopt-reader-2"
REQUIRED = ("options", "architecture", "card")
MAX_BYTES = 1 << 28  # far above any reader; keeps a mistaken path from filling the memory


class Reader:
    """Reads networks of one architecture.

    Args:
        header: Options of `metanetwork`, the architecture, and a card.
        tensors: State of the metanetwork.
        source: Named in errors.
    """

    def __init__(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str | os.PathLike) -> None:
        self._header, self._tensors, self._source = header, tensors, source
        self._model: nn.Module | None = None

    @property
    def card(self) -> dict[str, Any]:
        """What is known about the reader."""
        return self._header["card"]

    @torch.no_grad()
    def __call__(self, module: nn.Module, example: Tensor) -> Tensor:  # [output]
        """Read one network.

        Args:
            module: The network; only its weights are read.
            example: An input of it; only its shape matters.

        Raises:
            GraphMismatchError: It is of another architecture than the reader has learned from.
            ValueError: Weights are not finite.
        """
        graph = trace(module, example, scalings=True)
        params = {name: value.detach()[None] for name, value in module.named_parameters()}
        return self.stack(graph, params)[0]

    @torch.no_grad()
    def stack(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor:  # [net, output]
        """Read many networks, ``params``: name -> ``[net, *shape]``; raises as a call for one does.

        Args:
            graph: Of all of them, traced with ``scalings=True``.
            params: Their parameters.
        """
        bad = [name for name, value in params.items() if not bool(value.isfinite().all())]
        if bad:
            raise ValueError(f"{', '.join(bad[:5])} hold NaN or infinity: there is nothing to read in such networks.")
        with default_dtype(torch.float32):
            return self._built(graph)(graph, {name: value.float() for name, value in params.items()})

    def _built(self, graph: NeuralGraph) -> nn.Module:
        """The metanetwork, made when the first graph is there."""
        expected = self._header["architecture"]
        if graph.fingerprint() != expected["fingerprint"]:
            found = _shapes(graph)
            what = f"has parameters {found}" if found != expected["shapes"] else "computes something else from them"
            raise GraphMismatchError(
                f"{self._source} reads networks with parameters {expected['shapes']}, and this one {what}. Train a "
                "reader for this architecture."
            )
        if self._model is None:
            model = metanetwork(graph, **self._header["options"])
            try:
                model.load_state_dict(dict(self._tensors))
            except RuntimeError as error:
                raise CheckpointError(f"{self._source} is of another version of ngopt: {error}") from error
            self._model = model.eval()
        return self._model


def load_reader(name_or_path: str | os.PathLike) -> Reader:
    """Load a reader by the name of a shipped one, or from a file that `save_reader` wrote.

    Args:
        name_or_path: ``"mnist-inr"``, or a path.

    Raises:
        CheckpointError: No such name or file, or the file is corrupt or foreign.

    Example:
        >>> from ngopt.encoder import load_reader
        >>> load_reader("mnist-inr").card["outputs"]
        'logits of the digits 0 to 9'
    """
    path = Path(name_or_path)
    if not path.suffix:
        path = SHIPPED / f"{path.name}{SUFFIX}"
    if not path.is_file():
        names = sorted(one.stem for one in SHIPPED.glob(f"*{SUFFIX}"))
        raise CheckpointError(f"There is no reader {os.fspath(name_or_path)!r}. Name a file, or one of {names}.")
    try:
        tensors, header = read_tensors(path, most_bytes=MAX_BYTES, format=FORMAT)
        check_finite(tensors, path)
    except (FileError, OSError) as error:
        raise CheckpointError(f"{path} is not a reader that this ngopt can read: {error}") from error
    if not header.keys() >= set(REQUIRED):
        raise CheckpointError(f"{path} is not a reader: it lacks {sorted(set(REQUIRED) - header.keys())}.")
    return Reader(header, tensors, path)


def save_reader(
    path: str | os.PathLike,
    graph: NeuralGraph,
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
    card: Mapping[str, Any],
) -> Path:
    """Write a reader to one file, at once or not at all.

    Args:
        path: File to write, ending in ``.safetensors``.
        graph: Of the networks that it reads, traced with ``scalings=True``.
        tensors: State of its metanetwork.
        options: That `metanetwork` makes it with.
        card: What a user should know: any JSON values.

    Raises:
        CheckpointError: Another ending, or weights that are not finite.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(f"{path} should end in {SUFFIX}.")
    try:
        check_finite(tensors, path)
    except FileError as error:
        raise CheckpointError(f"{error} Train again.") from error
    architecture = {"fingerprint": graph.fingerprint(), "shapes": _shapes(graph)}
    header = {"format": FORMAT, "options": dict(options), "architecture": architecture, "card": dict(card)}
    write_tensors(path, tensors, header)
    return path


def _shapes(graph: NeuralGraph) -> dict[str, list[int]]:
    return {block.name: list(block.shape) for block in graph.blocks}
