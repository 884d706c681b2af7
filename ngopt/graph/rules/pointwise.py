"""Pointwise ops: PyTorch tags them, so there is no list of them here, only of those that the tag misses."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from ngopt.graph.labels import Label, axis_marks
from ngopt.graph.rules.registry import Tracer, rule

aten = torch.ops.aten

# Functions that change what a neuron says, worth naming on the graph. Arithmetic is not listed.
ACTIVATIONS = frozenset(
    "relu gelu silu tanh sigmoid sin cos exp softplus elu leaky_relu hardswish hardsigmoid hardtanh mish selu celu"
    " log_sigmoid_forward erf clamp clamp_min abs prelu threshold _prelu_kernel rrelu softshrink".split()
)


def labels_in(args: Any) -> list[Label]:
    """All labels in nested arguments."""
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Label)]


@rule(
    *(aten.clone, aten._to_copy, aten.native_dropout, aten.dropout, aten.contiguous, aten.lift_fresh_copy),
    *(aten.complex, aten.polar),  # not tagged as pointwise
    aten.leaky_relu,  # not tagged as pointwise before torch 2.13
)
def pointwise(tracer: Tracer, *args: Any, **kwargs: Any) -> list[Label] | Label:
    """Entry by entry, ``y[p] = f(x1[p], x2[p], ...)``: a permutation of all inputs permutes the output alike."""
    inputs = labels_in((args, kwargs))
    if len(inputs) > 1:
        tracer.condition_on_partner(inputs)
    for x in inputs:  # which of the factors is which, and what is done to them, is part of the function
        tracer.algebra.event(x)
    out = tracer.algebra.combine(*inputs, shape=tracer.shape)
    name = tracer.node.target.overloadpacket.__name__  # type: ignore[union-attr]
    if name in ACTIVATIONS and "activation" in out.tags:
        tracer.record(out, name)
    return [out] * len(tracer.shapes) if len(tracer.shapes) > 1 else out


@rule(aten.rand_like, aten.randn_like, aten.randint_like)
def noise(tracer: Tracer, x: Label, *args: Any, **kwargs: Any) -> Label:
    """Drawn position by position, whatever the ids are: every position has a draw of its own."""
    return Label(tracer.shape, marks=axis_marks(tracer.shape), tags=x.tags)


@rule(aten.copy)
def copy(tracer: Tracer, target: Label, source: Label, *args: Any) -> Label:
    """The entries of ``source``; those of the target are lost."""
    return tracer.algebra.combine(source, shape=tracer.shape)


@rule(
    aten.empty,
    aten.empty_strided,
    aten.new_empty_strided,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
)
def uniform(tracer: Tracer, *args: Any, **kwargs: Any) -> Label:
    """All entries are equal, so any permutation leaves them."""
    return Label(tracer.shape)
