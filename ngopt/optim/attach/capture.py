"""Trace a model in the middle of a user's program, and leave no mark."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ngopt.graph import trace
from ngopt.graph.isolation import detached
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.sharding import is_sharded

SLIM_ROWS = 2
CERTIFIED_NUMEL = 2**28  # the certificate copies all parameters in float64; above this, 2 GiB, the rules are believed
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def trace_quietly(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> NeuralGraph:
    """`ngopt.trace`, unnoticed: random numbers come from a state of its own.

    Two rows of the batch are tried first, where every tensor shares its first dimension, and the whole batch if that
    fails.

    Args:
        model: The module to trace, not wrapped.
        args: Positional inputs: a tensor, a tuple of anything, or a mapping of keyword inputs.
        kwargs: Keyword inputs.

    Returns:
        The neural graph of ``model``.

    Raises:
        Exception: Whatever `ngopt.trace` raised on the whole batch.
    """
    if isinstance(args, Mapping):
        args, kwargs = (), {**args, **(kwargs or {})}
    inputs = keep_inputs((tuple(args) if isinstance(args, tuple | list) else (args,), dict(kwargs or {})), model)
    certify = sum(param.numel() for param in model.parameters()) <= CERTIFIED_NUMEL
    with _own_random_state():
        slim = slim_batch(inputs)
        if slim is not None:
            # Rows of a batch are independent in nearly every model; where they are not, the whole batch is at hand.
            try:
                return trace(model, slim[0], example_kwargs=slim[1], certify=certify)
            except Warning:  # warnings are errors here: not a failure of the two rows
                raise
            except Exception:
                pass
        return trace(model, inputs[0], example_kwargs=inputs[1], certify=certify)


def keep_inputs(inputs: Inputs, module: nn.Module) -> Inputs:
    """Detached copies of the inputs of a forward pass, to be traced with later.

    They get the model's dtype where autocast, or FSDP2's mixed precision, makes them agree: tracing does without.
    """
    is_cast = any(is_sharded(param) for param in module.parameters())
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

    def cast(tensor: Tensor) -> Tensor:
        wanted = tensor.is_floating_point() and (is_cast or torch.is_autocast_enabled(tensor.device.type))
        return tensor.to(dtype) if wanted and dtype is not None else tensor

    with torch.inference_mode(False), torch.no_grad():  # the pass may be one of inference; what follows is not
        return detached(inputs, cast)[0]


def slim_batch(inputs: Inputs, rows: int = SLIM_ROWS) -> Inputs | None:
    """The first ``rows`` of every tensor, or None where the first dimension is not plainly a batch of more."""
    leaves: list[Any] = []
    _map_leaves(inputs, leaves.append)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0}
    if len(sizes) != 1 or max(sizes) <= rows or not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        return None
    return _map_leaves(inputs, lambda leaf: leaf[:rows] if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf)


def _map_leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """`tree_map` that also looks into data classes."""

    def visit(leaf: Any) -> Any:
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return change(leaf)
        changed = copy.copy(leaf)
        for field in dataclasses.fields(leaf):
            object.__setattr__(changed, field.name, _map_leaves(getattr(leaf, field.name), change))
        return changed

    return pytree.tree_map(visit, tree)


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    python_state = random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(0)  # of the CPU only: torch.manual_seed would reach every device
            random.seed(0)
            yield
    finally:
        random.setstate(python_state)
