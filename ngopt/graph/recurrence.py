"""Recurrent layers stay whole in a recording: one op of ours, in place of several per time step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")

torch.library.define(
    "ngopt::recurrent",
    "(str kind, Tensor input, Tensor? batch_sizes, Tensor[] state, Tensor[] weights, bool has_biases, int layers,"
    " bool bidirectional, bool batch_first) -> Tensor[]",
)


@torch.library.impl("ngopt::recurrent", "CompositeExplicitAutograd")
def _run(
    kind: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    state: list[Tensor],
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    """``[time, batch, feature]`` (or the rows of a packed sequence) -> outputs and last states."""
    given = state if kind == "lstm" else state[0]
    settings = (weights, has_biases, layers, 0.0, False, bidirectional)
    function: Any = getattr(torch, kind)
    out = (
        function(x, given, *settings, batch_first)
        if batch_sizes is None
        else function(x, batch_sizes, given, *settings)
    )
    return list(out)


@torch.library.register_fake("ngopt::recurrent")
def _shapes(
    kind: str,
    x: Tensor,
    batch_sizes: Tensor | None,
    state: list[Tensor],
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:
    width = state[0].shape[-1] * (2 if bidirectional else 1)
    return [x.new_empty(*x.shape[:-1], width), *(torch.empty_like(s) for s in state)]


class RecurrentLayersWhole(TorchFunctionMode):
    """Where a recurrent layer of torch is called, call the op of ours. Without dropout, so for evaluation mode only."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `torch.overrides.TorchFunctionMode`."""
        kind = getattr(func, "__name__", "")
        if kind not in KINDS or kwargs:
            return func(*args, **(kwargs or {}))
        x, *rest = args
        is_packed = isinstance(rest[0], Tensor) and (kind == "lstm" or isinstance(rest[1], Tensor))
        batch_sizes = rest.pop(0) if is_packed else None
        state, weights, has_biases, layers, _, _, bidirectional = rest[:7]
        batch_first = False if is_packed else rest[7]
        state = list(state) if kind == "lstm" else [state]
        settings = (has_biases, layers, bidirectional, batch_first)
        return tuple(torch.ops.ngopt.recurrent(kind, x, batch_sizes, state, list(weights), *settings))
