"""Recurrent layers, whole: the cost of reading one does not depend on the length of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import ngopt.graph.recurrence  # noqa: F401  (defines the op)
from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.contraction import contract
from ngopt.graph.rules.joining import Shaped, cat
from ngopt.graph.rules.registry import Tracer, rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@rule(torch.ops.ngopt.recurrent)
def recurrent(
    tracer: Tracer,
    kind: str,
    x: Label,
    batch_sizes: Label | None,
    state: Sequence[Label],
    weights: Sequence[Label],
    has_biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> list[Label]:
    """``h_t = cell(W x_t + b, U h_{t-1} + c)``, for all times at once.

    The same matrices act at every time, so the ids of ``h_t`` are those of ``h_{t-1}``: what one step ties together,
    every step does. Steps come one after the other, so the axis of time keeps no symmetry.
    """
    time = 1 if batch_first and batch_sizes is None else 0
    x = tracer.algebra.rigid(x, [time])
    remaining = list(weights)
    per_direction = (4 if has_biases else 2) + (kind == "lstm" and state[0].shape[-1] != state[1].shape[-1])
    last: list[list[Label]] = [[] for _ in state]
    for _ in range(layers):
        outputs = []
        for _ in range(2 if bidirectional else 1):
            own, remaining = remaining[:per_direction], remaining[per_direction:]
            index = len(last[0])
            before = [_initial(tracer, s, index, x, time) for s in state]
            after = _step(tracer, kind, x, before, own, has_biases)
            outputs.append(after[0])
            for ends, s in zip(last, after, strict=True):
                ends.append(_end(tracer, s, time, state[0].shape[1], packed=batch_sizes is not None))
        shape = (*x.shape[:-1], sum(out.shape[-1] for out in outputs))
        x = outputs[0] if len(outputs) == 1 else cat(Shaped(tracer, shape), outputs, len(shape) - 1)
    return [x, *(_stacked(tracer, ends) for ends in last)]


@rule(torch.ops.aten._pack_padded_sequence)
def pack(tracer: Tracer, x: Label, lengths: Label, batch_first: bool) -> list[Label]:
    """``[time, batch, ...]`` (or batch first) ``-> [row, ...]``: rows of sequences that still last, time by time."""
    rows, sizes = tracer.shapes
    x = tracer.algebra.rigid(x, [0, 1])
    merged = tracer.algebra.moved(x, rows, lambda f: f[0, :1], lossless=False)
    return [
        tracer.algebra.combine(merged, Label(rows, marks=axis_marks(rows, [0]))),
        Label(sizes, marks=axis_marks(sizes)),
    ]


@rule(torch.ops.aten._pad_packed_sequence)
def pad(tracer: Tracer, x: Label, batch_sizes: Label, batch_first: bool, *padding: Any) -> list[Label]:
    """The inverse, with a constant where a sequence has ended: time and batch are positions."""
    wide, lengths = tracer.shapes
    x = tracer.algebra.rigid(x, [0])
    moved = tracer.algebra.moved(x, wide, lambda f: f[:1, None], lossless=False)
    return [
        tracer.algebra.combine(moved, Label(wide, marks=axis_marks(wide, [0, 1]))),
        Label(lengths, marks=axis_marks(lengths)),
    ]


def _step(
    tracer: Tracer, kind: str, x: Label, before: list[Label], weights: list[Label], has_biases: bool
) -> list[Label]:
    """The states after a step, at every time: ``[..., hidden]``, and for an LSTM the cells."""
    read, again = weights[0], weights[1]
    biases = weights[2:4] if has_biases else [None, None]
    project = weights[-1] if len(weights) in (3, 5) else None
    gates = _gates(tracer, kind, _affine(tracer, x, read, biases[0]))
    cells = x
    for _ in range(2):  # what the first round yields is the previous state of the second one
        cells = tracer.algebra.combine(*gates, *before[1:])
        hidden = cells if project is None else _affine(tracer, cells, project, None)
        hidden = tracer.algebra.combine(hidden, before[0])
        before = [hidden, cells][: len(before)]
        gates = gates[: GATES[kind]] + _gates(tracer, kind, _affine(tracer, hidden, again, biases[1]))
    tracer.record(cells, kind)
    return before


def _gates(tracer: Tracer, kind: str, x: Label) -> list[Label]:
    """The parts of ``[..., gate hidden]``, each set apart from the others."""
    count = GATES[kind]
    size = x.shape[-1] // count
    return [
        tracer.algebra.rearrange(x, lambda f, k=k: f.narrow(-1, k * size, size), lossless=False) for k in range(count)
    ]


def _affine(tracer: Tracer, x: Label, weight: Label, bias: Label | None) -> Label:
    """``x W^T + b`` over the last axis."""
    rows = tracer.algebra.reshape(x, (torch.Size(x.shape[:-1]).numel(), x.shape[-1]))
    turned = tracer.algebra.rearrange(weight, lambda f: f.mT, lossless=True)
    out = contract(tracer, rows, turned, batch=False)
    out = tracer.algebra.reshape(out, (*x.shape[:-1], weight.shape[0]))
    return out if bias is None else tracer.algebra.combine(out, bias)


def _initial(tracer: Tracer, state: Label, index: int, x: Label, time: int) -> Label:
    """The first state of one layer and direction, ``[layer, batch, hidden]``, spread over time."""
    own = tracer.algebra.rearrange(state, lambda f: f[index], lossless=False)
    if x.ndim == 2:  # packed: rows of a batch in turn, so no two rows are known to be alike
        return tracer.algebra.reduce(tracer.algebra.rigid(own, [0]), [0], keepdim=True)
    shape = (*own.shape[:time], 1, *own.shape[time:])
    return tracer.algebra.reshape(own, shape)


def _end(tracer: Tracer, state: Label, time: int, batch: int, *, packed: bool) -> Label:
    """The last state, ``[1, batch, hidden]``. Of a packed sequence the first rows stand for the last ones."""
    if packed:
        own = tracer.algebra.rearrange(state, lambda f: f[:batch], lossless=False)
    else:
        own = tracer.algebra.rearrange(state, lambda f: f.select(time, -1), lossless=False)
    return tracer.algebra.reshape(own, (1, *own.shape))


def _stacked(tracer: Tracer, ends: list[Label]) -> Label:
    return ends[0] if len(ends) == 1 else cat(Shaped(tracer, (len(ends), *ends[0].shape[1:])), ends, 0)
