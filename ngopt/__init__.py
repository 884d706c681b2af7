"""ngopt: a learned optimizer that sees a network as a graph of its neurons."""

from ngopt import graph
from ngopt.errors import (
    CheckpointError,
    FrozenSymmetryWarning,
    GraphMismatchError,
    NGOptError,
    SymmetryError,
    TraceError,
    UnsupportedOpError,
)
from ngopt.graph import NeuralGraph, trace

__version__ = "0.1.0"
