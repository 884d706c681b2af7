"""Tests of symmetries, for layers, encoders and optimizers of your own; docs/testing.md shows how.

The assertions need nothing but ngopt. `ngopt.testing.strategies` has what hypothesis draws: modules with known
symmetries, networks of an architecture, elements of a graph's symmetry group, batches. It needs
``pip install 'ngopt[testing]'``.
"""

from ngopt.graph.certificate import relative_error
from ngopt.testing.architectures import RandomNet
from ngopt.testing.assertions import (
    GroupElement,
    assert_encoder_equivariant,
    assert_equivariant,
    assert_function_invariant,
    assert_invariant,
    assert_layer_equivariant,
    assert_optimizer_equivariant,
    tolerance_of,
)
from ngopt.testing.known import KnownModule

__all__ = [
    "GroupElement",
    "KnownModule",
    "RandomNet",
    "assert_encoder_equivariant",
    "assert_equivariant",
    "assert_function_invariant",
    "assert_invariant",
    "assert_layer_equivariant",
    "assert_optimizer_equivariant",
    "relative_error",
    "tolerance_of",
]
