"""Trained readers as files: a metanetwork for networks of one architecture, in safetensors, with a card in the header.

What architecture that is, is kept as the fingerprint of its graph, which any module that computes the same has, and as
names and shapes for error messages. Nothing is ever unpickled. `SHIPPED` come with ngopt.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ngopt.encoder.metanetwork import metanetwork
from ngopt.errors import CheckpointError, GraphMismatchError
from ngopt.files import write_bytes
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.trace import trace

SHIPPED = Path(__file__).resolve().parent / "pretrained"
SUFFIX, ENTRY, FORMAT = ".safetensors", "ngopt", "ngopt-reader-1"
REQUIRED = ("format", "options", "architecture", "card", "sha256")
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
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path} is too large to be a reader.")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if header["format"] != FORMAT or not header.keys() >= set(REQUIRED):
            raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
        if header["sha256"] != _digest(header, tensors):
            raise ValueError("its content is not what its hash says")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a reader, or is damaged: {error}") from error
    if bad := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{path}: {', '.join(bad[:5])} hold NaN or infinity.")
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
    if bad := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{', '.join(bad[:5])} hold NaN or infinity: train again.")
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "options": dict(options),
        "architecture": {"fingerprint": graph.fingerprint(), "shapes": _shapes(graph)},
        "card": dict(card),
    }
    header = json.loads(json.dumps(header))
    header["sha256"] = _digest(header, tensors)
    write_bytes(path, save(tensors, metadata={ENTRY: json.dumps(header, sort_keys=True)}))
    return path


def _shapes(graph: NeuralGraph) -> dict[str, list[int]]:
    return {block.name: list(block.shape) for block in graph.blocks}


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    rest = {name: value for name, value in header.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(repr((name, tuple(tensors[name].shape), str(tensors[name].dtype))).encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
