"""The registry of rules, and what a rule may ask of the tracer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import fx

from ngopt.graph.labels import Algebra, Label

Rule = Callable[..., Any]
"""From the arguments of an op, as labels, to the label of its output; see `rule`."""

Op = torch._ops.OpOverload | torch._ops.OpOverloadPacket
RULES: dict[Op, Rule] = {}


class Tracer(Protocol):
    """What rules see of the running trace."""

    algebra: Algebra
    node: fx.Node  # the call being labelled

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output (of the first one, if there are several)."""
        ...

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all outputs."""
        ...

    def used(self, output: int) -> bool:
        """Whether anything reads that output of a call with several."""
        ...

    def condition(self, label: Label, *, groups: int | None = None, picked: int | None = None) -> None:
        """Ask for ids of one axis of a parameter that depend on the index of another (heads, experts, groups)."""
        ...

    def condition_on_partner(self, labels: list[Label]) -> None:
        """The same, where a parameter meets ids that run over two of its axes at once."""
        ...

    def roles(self, label: Label, axes: set[int], role: str) -> None:
        """Note that neurons play a role in attention: "query", "key" or "value"."""
        ...

    def score(self, queries: tuple[Label, set[int]], keys: tuple[Label, set[int]]) -> str:
        """A tag for a product of two activations, whose factors are queries and keys if a softmax follows."""
        ...

    def attend(self, label: Label) -> bool:
        """Whether a tensor is such a product; gives its factors their roles."""
        ...

    def record(self, label: Label, what: str) -> None:
        """Note that the neurons of a tensor pass through a function (an activation, a pooling)."""
        ...

    def direction(self, label: Label, axes: set[int], way: str) -> None:
        """Note that parameter axes are read from ("in") or written to ("out")."""
        ...

    def attribute(self, label: Label, **values: object) -> None:
        """Note how parameters are used: op, stride, groups, ..."""
        ...


def rule(*ops: Op) -> Callable[[Rule], Rule]:
    """Register a rule for ATen ops (an overload, or a packet for all of its overloads).

    The function is called as ``f(tracer, *args, **kwargs)`` with the op's own arguments, tensors replaced by `Label`,
    and returns the label of the output, or a list of labels. Registering a second rule for an op replaces the first.

    Example:
        A rule for an op of your own that scales every channel::

            @ngopt.graph.rule(torch.ops.mylib.scale_channels)
            def _(tracer, x, scale):
                return tracer.algebra.combine(x, scale)
    """
    for op in ops:
        if not isinstance(op, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
            raise TypeError(
                f"rule() takes ops such as torch.ops.aten.cumsum or torch.ops.aten.cumsum.default, got {op!r}"
            )

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[op] = function
        return function

    return register


def known(*names: str) -> tuple[Op, ...]:
    """The ATen ops of these names, without those that the installed torch does not have yet."""
    return tuple(getattr(torch.ops.aten, name) for name in names if hasattr(torch.ops.aten, name))


def find_rule(op: Any) -> Rule | None:
    """The rule for an op, by overload first, then by packet."""
    packet = getattr(op, "overloadpacket", op)
    return RULES.get(op) or RULES.get(packet)
