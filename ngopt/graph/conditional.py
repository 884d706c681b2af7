"""Conditional ids: where one axis of a parameter chooses which neurons another axis stands for.

An axis usually names the same neurons whatever the index of the other axes. Not so for the input channels of a grouped
convolution, or for the hidden neurons of stacked experts and heads: there, ids depend on the group. Rules notice on the
way and ask for it by a *wish*; the program is then labelled again from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.graph.labels import Label, varying

Legs = list[tuple[Tensor, str, int]]  # fields that are whole axes of parameters: (field, parameter, axis)


@dataclass(frozen=True)
class Conditional:
    """Ids of one axis of a tensor depend on which of ``groups`` groups the index of axis ``given`` is in."""

    tensor: str
    axis: int
    given: int
    groups: int


class Retrace(Exception):
    """A parameter turned out to need conditional ids: start again with them."""

    def __init__(self, conditional: Conditional) -> None:
        self.conditional = conditional


def grouped(label: Label, legs: Legs, groups: int) -> Iterator[Conditional]:
    """Grouped convolution: axis 1 given the group of axis 0."""
    for _, tensor, axis in legs:
        if axis == 1 and label.ndim > 1:
            yield Conditional(tensor, 1, 0, groups)


def stacked(
    label: Label, legs: Legs, shapes: Mapping[str, tuple[int, ...]], picked: int | None = None
) -> Iterator[Conditional]:
    """A stack of matrices: one is read per index of an earlier axis.

    That axis is the batch of a batched product, or is merged into rows (or columns), or with ``picked`` one index of it
    is read at a time.
    """
    for f, g, tensor, axis, before in _pairs(legs):
        if picked is not None:
            wanted = varying(g) == {picked} and picked not in varying(f)
        else:
            batched = label.ndim == 3 and varying(g) == {0} and 0 not in varying(f)
            wanted = batched or (varying(f) == varying(g) and len(varying(f)) == 1)
        if wanted and len(shapes[tensor]) == 3:
            yield Conditional(tensor, axis, before, shapes[tensor][before])


def paired(
    labels: Sequence[Label], legs: Sequence[Legs], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Conditional]:
    """A parameter meets ids that run over two of its axes at once: its own must, too (biases of heads and experts)."""
    for x, own in zip(labels, legs, strict=True):
        for f, g, tensor, axis, before in _pairs(own):
            if len(varying(f)) != 1 or len(varying(g)) != 1:
                continue
            both = {a - x.ndim for a in varying(f) | varying(g)}
            for partner in (y for y in labels if y is not x):
                for h in partner.fields:
                    if {a - partner.ndim for a in varying(h)} == both and len(torch.unique(h)) == h.numel():
                        yield Conditional(tensor, axis, before, shapes[tensor][before])


def _pairs(legs: Legs) -> Iterator[tuple[Tensor, Tensor, str, int, int]]:
    """Two axes of one parameter: field of the later, field of the earlier, parameter, later axis, earlier axis."""
    for f, tensor, axis in legs:
        for g, other, before in legs:
            if other == tensor and before < axis:
                yield f, g, tensor, axis, before
