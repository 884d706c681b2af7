"""Checks of symmetry, for tests of your own: of modules, encoders and optimizers.

They raise `SymmetryError`, naming the permutation that failed and by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ngopt.errors import SymmetryError
from ngopt.graph.certificate import evaluate, random_state, relative_error
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.symmetry import Generator
from ngopt.graph.trace import trace

__all__ = ["assert_equivariant", "assert_function_invariant", "assert_invariant", "relative_error"]


def assert_function_invariant(
    module: nn.Module,
    inputs: Tensor | Sequence[Any],
    graph: NeuralGraph | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    generators: Iterable[Generator] | None = None,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> None:
    """Permuting the neurons of a module leaves its function unchanged.

    Checked in float64 and evaluation mode, on random parameters, for every generator of the graph.

    Args:
        module: The module; it is left as it is.
        inputs: Positional inputs.
        graph: Its graph; traced without a certificate if not given.
        kwargs: Keyword inputs.
        generators: The permutations to check; all of the graph's by default.
        tolerance: Largest difference of outputs, relative to their spread.
        seed: Of the random parameters.

    Raises:
        SymmetryError: for some generator the outputs differ.

    Example:
        >>> import torch
        >>> from ngopt.testing import assert_function_invariant
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
        >>> assert_function_invariant(mlp, torch.randn(4, 3))
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    graph = graph or trace(module, args, example_kwargs=kwargs, certify=False)
    state = random_state(module, seed)
    before = evaluate(module, state, args, kwargs or {})
    for generator in graph.generators() if generators is None else generators:
        error = relative_error(before, evaluate(module, generator.apply(state), args, kwargs or {}))
        _check(error, tolerance, f"{generator} on {', '.join(generator.parameters)} changes the outputs")


def assert_invariant(
    function: Callable[[dict[str, Tensor]], Tensor | Sequence[Tensor]],
    state: Mapping[str, Tensor],
    generators: Iterable[Generator],
    *,
    tolerance: float = 1e-10,
) -> None:
    """``function(g state) == function(state)`` for every generator ``g``.

    Raises:
        SymmetryError: it is not, by more than ``tolerance`` relative to the spread of the results.
    """
    before = _tensors(function(dict(state)))
    for generator in generators:
        error = relative_error(before, _tensors(function(generator.apply(state))))
        _check(error, tolerance, f"the function is not invariant under {generator}")


def assert_equivariant(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    state: Mapping[str, Tensor],
    generators: Iterable[Generator],
    *,
    tolerance: float = 1e-10,
) -> None:
    """``function(g state) == g function(state)`` for every generator ``g``; results are keyed and shaped as the state.

    Raises:
        SymmetryError: it is not, by more than ``tolerance`` relative to the spread of the results.
    """
    before = function(dict(state))
    for generator in generators:
        permuted, wanted = function(generator.apply(state)), generator.apply(before)
        names = list(wanted)
        error = relative_error([wanted[n] for n in names], [permuted[n] for n in names])
        _check(error, tolerance, f"the function is not equivariant under {generator}")


def _tensors(result: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _check(error: float, tolerance: float, what: str) -> None:
    if not error <= tolerance:
        raise SymmetryError(f"{what}: relative error {error:.1e}, allowed {tolerance:.0e}")
