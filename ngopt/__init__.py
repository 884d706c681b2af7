"""ngopt: a learned optimizer that sees a network as a graph of its neurons."""

from ngopt import graph
from ngopt.errors import (
    CheckpointError,
    FrozenSymmetryWarning,
    GraphMismatchError,
    MissingExtraError,
    NGOptError,
    SymmetryError,
    TraceError,
    UnsupportedOpError,
)
from ngopt.graph import NeuralGraph, trace
from ngopt.optim.ngoptimizer import NGOptimizer
from ngopt.optim.saving.checkpoint import load_pretrained, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "FrozenSymmetryWarning",
    "GraphMismatchError",
    "MissingExtraError",
    "NGOptError",
    "NGOptimizer",
    "NeuralGraph",
    "SymmetryError",
    "TraceError",
    "UnsupportedOpError",
    "graph",
    "load_pretrained",
    "save_pretrained",
    "trace",
]
