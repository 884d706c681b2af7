"""Neural graphs: tracing, symmetries, drawing. ``python -m ngopt.graph --help`` does the same from the shell."""

from ngopt.graph.neural_graph import NeuralGraph, NodeGroup, ParamBlock
from ngopt.graph.rules import Rule, Tracer, rule
from ngopt.graph.symmetry import Generator, Symmetries, Symmetry
from ngopt.graph.trace import trace

__all__ = [
    "Generator",
    "NeuralGraph",
    "NodeGroup",
    "ParamBlock",
    "Rule",
    "Symmetries",
    "Symmetry",
    "Tracer",
    "rule",
    "trace",
]
