"""CUDA tensors without CUDA: fake ones, which know their device, refuse to be mixed, and have no values.

Good for two questions about code that is to run on a GPU: does it mix devices, and where does it wait for the device?
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ngopt.encoder import structure as encoder_structure
from ngopt.graph.per_graph import per_graph
from ngopt.optim.attach import match

aten = torch.ops.aten
GPU = torch.device("cuda", 0)


class Waits(TorchDispatchMode):
    """Notes where the host would wait for a GPU: values that are asked for, and copies that block."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.on_host = 0  # what every number on the host is: the count of steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            if args[0].device.type == "cuda":
                self._note("value")
            return True if args[0].dtype == torch.bool else self.on_host  # finite gradients
        out = func(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[1] if func is aten.copy_.default else args[0]
            waits = not (kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
            if waits and source.device.type != out.device.type:
                self._note("copy")
        elif func in (aten._linalg_eigh.default, aten.nonzero.default, aten._unique2.default):
            if out[0].device.type == "cuda":
                self._note(str(func))
        return out

    def _note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if "ngopt" in Path(f.filename).parts]
        self.found.append(f"{what}: " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1]))


@contextmanager
def pretended_gpu() -> Iterator[Waits]:
    """Inside, tensors can be made on a GPU that is not there."""
    watch = Waits()
    with (
        mock.patch.object(Tensor, "__getitem__", _getitem),
        mock.patch.object(FakeTensor, "__getitem__", _getitem),
        mock.patch.object(Tensor, "copy_", _copy_),
        mock.patch.object(nn.Module, "to", _to),
        mock.patch.object(encoder_structure, "_build", _structure),
        mock.patch.object(match, "restrict", lambda graph, names, device: dataclasses.replace(graph)),
        FakeTensorMode(allow_non_fake_inputs=True),
        watch,
    ):
        yield watch


def like(x: Any, device: torch.device = GPU) -> Any:
    """A fake tensor of the same shape and type, on the device that is not there."""
    return torch.empty(x.shape, dtype=x.dtype, device=device) if isinstance(x, Tensor) else x


# Where a build without CUDA asks for its device, in spite of all pretence:


_plain_getitem, _plain_copy_, _plain_to = Tensor.__getitem__, Tensor.copy_, nn.Module.to
_plain_structure = encoder_structure._build


def _getitem(self: Tensor, index: Any) -> Tensor:
    if self.device.type != "cuda":
        return _plain_getitem(self, index)
    found, axis = self, 0
    index = list(index) if isinstance(index, tuple) else [index]
    if any(entry is Ellipsis for entry in index):
        place = next(i for i, entry in enumerate(index) if entry is Ellipsis)
        used = sum(entry is not None and entry is not Ellipsis for entry in index)
        index[place : place + 1] = [slice(None)] * (self.dim() - used)
    for entry in index:
        if entry is None:
            found, axis = found.unsqueeze(axis), axis + 1
        elif isinstance(entry, slice):
            start, stop, step = entry.indices(found.shape[axis])
            found, axis = aten.slice(found, axis, start, stop, step), axis + 1
        elif isinstance(entry, Tensor):
            found, axis = aten.index(found, [None] * axis + [entry]), axis + entry.dim()
        else:
            found = found.select(axis, entry)
    return found


def _copy_(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if self.device.type != "cuda":
        return _plain_copy_(self, source, non_blocking)
    return aten.copy_.default(self, source, non_blocking)


def _to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    if not args or not isinstance(args[0], torch.device) or args[0].type != "cuda":
        return _plain_to(self, *args, **kwargs)
    for module in self.modules():
        for name, param in module._parameters.items():
            if param is not None:
                module._parameters[name] = nn.Parameter(like(param), requires_grad=False)
    return self


@per_graph
def _structure(graph: Any, device: torch.device) -> encoder_structure.Structure:
    with _disable_current_modes():  # counts decide on shapes
        real = _plain_structure(graph, torch.device("cpu"))
    if device.type == "cpu":
        return real
    fields = {field.name: getattr(real, field.name) for field in dataclasses.fields(real)}
    moved = {
        name: {key: like(x) for key, x in value.items()} if isinstance(value, dict) else like(value)
        for name, value in fields.items()
    }
    return encoder_structure.Structure(**moved)
