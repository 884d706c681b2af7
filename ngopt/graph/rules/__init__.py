"""Rules: what an ATen op does to labels. One decorated function per kind of op; its docstring argues why it is right.

Look-up order: a rule for the op; view ops (the op itself runs on the ids); pointwise ops (`torch.Tag.pointwise`);
otherwise everything the op touches is frozen, which is sound and merely less symmetric.
"""

from ngopt.graph.rules import (  # noqa: F401  (importing them registers their rules)
    contraction,
    convolution,
    indexing,
    joining,
    movement,
    normalisation,
    pointwise,
    positional,
    recurrent,
    reduction,
    spatial,
)
from ngopt.graph.rules.registry import RULES, Rule, Tracer, rule

__all__ = ["RULES", "Rule", "Tracer", "rule"]
