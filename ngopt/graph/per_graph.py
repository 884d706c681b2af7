"""What is made from a graph once, and kept as long as the graph lives."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

Options = ParamSpec("Options")
Made = TypeVar("Made")


def per_graph(make: Callable[Concatenate[Any, Options], Made]) -> Callable[Concatenate[Any, Options], Made]:
    """A function of a graph, and of further arguments that can be hashed, which remembers what it made.

    Graphs do not change; equal ones are not the same one here. The cache holds no graph, and is the attribute ``kept``.

    >>> class Graph: ...
    >>> graph, found = Graph(), per_graph(lambda graph, size: [size])
    >>> found(graph, 3) is found(graph, 3), found(graph, 3) is found(Graph(), 3)
    (True, False)
    """
    kept: dict[tuple[Any, ...], Made] = {}

    @functools.wraps(make)
    def found(graph: Any, *args: Options.args, **kwargs: Options.kwargs) -> Made:
        key = (id(graph), *args, *kwargs.items())
        if key not in kept:
            kept[key] = make(graph, *args, **kwargs)
            weakref.finalize(graph, kept.pop, key, None)
        return kept[key]

    found.kept = kept  # type: ignore[attr-defined]
    return found
