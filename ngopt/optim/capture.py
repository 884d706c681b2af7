"""Trace a model in the middle of a user's program, and leave no mark."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ngopt.graph import trace
from ngopt.graph.neural_graph import NeuralGraph

SLIM_ROWS = 2
CERTIFIED_NUMEL = 2**28  # the certificate copies all parameters in float64; above this, 2 GiB, the rules are believed
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def trace_quietly(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> NeuralGraph:
    """`ngopt.trace`, unnoticed: what the model's Python does meanwhile happens to a copy of it.

    The copy shares the parameters with the original and nothing else. Random numbers, those of Python's `random`
    included, come from a state of its own. Two rows of the batch are tried first, where every tensor shares its first
    dimension, and the whole batch if that fails.

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
    inputs = (tuple(args) if isinstance(args, (tuple, list)) else (args,), dict(kwargs or {}))
    certify = sum(param.numel() for param in model.parameters()) <= CERTIFIED_NUMEL
    copied = _copy_sharing_parameters(model)

    def attempt(inputs: Inputs) -> NeuralGraph:
        args, kwargs = pytree.tree_map(lambda leaf: _prepare(leaf, model), inputs)
        return trace(copied, args, example_kwargs=kwargs, certify=certify)

    with _own_random_state():
        slim = slim_batch(inputs)
        if slim is not None:
            # Rows of a batch are independent in nearly every model; where they are not, the whole batch is at hand.
            try:
                return attempt(slim)
            except Warning:  # warnings are errors here: not a failure of the two rows
                raise
            except Exception:
                pass
        return attempt(inputs)


def slim_batch(inputs: Inputs, rows: int = SLIM_ROWS) -> Inputs | None:
    """The first ``rows`` of every tensor, or None where the first dimension is not plainly a batch of more."""
    leaves, spec = pytree.tree_flatten(inputs)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 0}
    if len(sizes) != 1 or max(sizes) <= rows or not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        return None
    slim = [leaf[:rows] if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf for leaf in leaves]
    return pytree.tree_unflatten(slim, spec)


def _prepare(leaf: Any, model: nn.Module) -> Any:
    """A detached copy of a tensor, in the model's dtype where autocast makes them agree: tracing switches it off."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().clone()
    if leaf.is_floating_point() and torch.is_autocast_enabled(leaf.device.type):
        leaf = leaf.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), leaf.dtype))
    return leaf


def _copy_sharing_parameters(model: nn.Module) -> nn.Module:
    try:
        # Gradients hang on parameters, so sharing the parameters also spares copying them.
        return copy.deepcopy(model, {id(p): p for p in model.parameters()})
    except Exception:  # a lock, a process group, a cached activation: anything can hang on a user's module
        return model


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
