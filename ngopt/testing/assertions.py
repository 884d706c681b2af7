"""Assertions on symmetries. They raise `SymmetryError`, which names the group element, the result, and by how much."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ngopt.errors import SymmetryError
from ngopt.graph.certificate import evaluate, random_state, relative_error
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.graph.trace import trace

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
State = dict[str, Tensor]


class GroupElement(Protocol):
    """A permutation of neurons: `ngopt.graph.Generator`, or a product of some."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what it moves."""
        ...

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permute whatever is keyed and shaped like the network's parameters."""
        ...


def tolerance_of(*tensors: Tensor) -> float:
    """Largest relative error that rounding explains, by the least precise dtype among the tensors."""
    return max((TOLERANCES.get(x.dtype, 0.0) for x in tensors), default=0.0)


def assert_function_invariant(
    module: nn.Module,
    inputs: Tensor | Sequence[Any],
    graph: NeuralGraph | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    generators: Iterable[GroupElement] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Permuting the neurons of a module leaves its function unchanged.

    Checked in float64 and evaluation mode, on random parameters.

    Args:
        module: The module; it is left as it is.
        inputs: Positional inputs.
        graph: Its graph; traced without a certificate if not given.
        kwargs: Keyword inputs.
        generators: The permutations to check; all generators of the graph by default.
        tolerance: Largest difference of outputs, relative to their spread; by default `tolerance_of` the outputs.
        seed: Of the random parameters.

    Raises:
        SymmetryError: for some permutation the outputs differ.

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
    for element in graph.generators() if generators is None else generators:
        after = evaluate(module, element.apply(state), args, kwargs or {})
        _compare(_numbered(before), _numbered(after), tolerance, f"{_name(element)} changes the module's outputs")


def assert_invariant(
    function: Callable[[State], Tensor | Sequence[Tensor]],
    state: Mapping[str, Tensor],
    generators: Iterable[GroupElement],
    *,
    tolerance: float | None = None,
) -> None:
    """``function(g state) == function(state)`` for every group element ``g``.

    Args:
        function: From a network's parameters to one or more tensors.
        state: A network's parameters.
        generators: Group elements.
        tolerance: Largest difference, relative to the spread of the results; by default `tolerance_of` the results.

    Raises:
        SymmetryError: it is not.
    """
    before = _numbered(function(dict(state)))
    for element in generators:
        after = _numbered(function(element.apply(state)))
        _compare(before, after, tolerance, f"the function is not invariant under {_name(element)}")


def assert_equivariant(
    function: Callable[[State], Mapping[str, Tensor]],
    state: Mapping[str, Tensor],
    generators: Iterable[GroupElement],
    *,
    tolerance: float | None = None,
) -> None:
    """``function(g state) == g function(state)`` for every group element ``g``.

    Args:
        function: From a network's parameters to results that are keyed and shaped like them.
        state: A network's parameters.
        generators: Group elements.
        tolerance: Largest difference, relative to the spread of the results; by default `tolerance_of` the results.

    Raises:
        SymmetryError: it is not.
    """
    before = function(dict(state))
    for element in generators:
        after = function(element.apply(state))
        _compare(element.apply(before), after, tolerance, f"the function is not equivariant under {_name(element)}")


def assert_encoder_equivariant(
    encoder: Callable[[NeuralGraph, State], Any],
    graph: NeuralGraph,
    state: Mapping[str, Tensor],
    elements: Iterable[GroupElement],
    *,
    tolerance: float | None = None,
) -> None:
    """An encoder of networks says the same of a network and of the same network with permuted neurons.

    A tensor must not change. A dictionary is keyed and shaped like the parameters (new parameters, updates, scores of
    weights), and must be permuted with them.

    Args:
        encoder: ``encoder(graph, params)`` with ``params`` a stack of networks: name -> ``[net, *shape]``, as
            `ngopt.encoder.Metanetwork` takes it. Results have the axis ``net`` first.
        graph: The architecture's graph.
        state: One network of it: name -> ``[*shape]``.
        elements: Of the graph's symmetry group.
        tolerance: See `assert_equivariant`.

    Raises:
        SymmetryError: it is not.
    """

    def read(one: State) -> Any:
        result = encoder(graph, {name: x[None] for name, x in one.items()})
        if isinstance(result, Tensor):
            return result
        # Channels of an output average, [net, copy, *shape], are networks of their own.
        return {n: (x[0] if x[0].shape == one[n].shape else x[0, 0]) for n, x in result.items()}

    with torch.no_grad():
        assertion = assert_invariant if isinstance(read(dict(state)), Tensor) else assert_equivariant
        assertion(read, state, elements, tolerance=tolerance)


def assert_optimizer_equivariant(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    module: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    elements: Iterable[GroupElement],
    *,
    steps: int = 3,
    noise: float = 1e-11,
    tolerance: float | None = None,
) -> None:
    """Training a network with permuted neurons gives the trained network with permuted neurons.

    Args:
        make: Makes the optimizer of a module.
        module: The network, in the precision to test in; copies of it are trained.
        loss: Of a module at a step; it must be the same function of the module's outputs each time it is called.
        elements: Of the symmetry group of the module's graph.
        steps: Of training.
        noise: Gradients smaller than this share of the largest are rounding (a key's bias, say) and set to zero: an
            optimizer that normalises would make steps of them.
        tolerance: Largest difference of the parameters' changes, relative to the size of a change; see `tolerance_of`.

    Raises:
        SymmetryError: it does not.
    """
    start = {name: x.detach() for name, x in module.named_parameters()}
    everything = start | {name: x.detach() for name, x in module.named_buffers()}

    def change(state: State) -> State:
        twin = copy.deepcopy(module)
        twin.load_state_dict(state, strict=False)
        optimizer = make(twin)
        for step in range(steps):
            optimizer.zero_grad()
            loss(twin, step).backward()
            grads = [p.grad for p in twin.parameters() if p.grad is not None]
            largest = max((float(grad.abs().max()) for grad in grads), default=0.0)
            for grad in grads:
                grad[grad.abs() < noise * largest] = 0.0
            optimizer.step()
        return {name: x.detach() - state[name] for name, x in twin.named_parameters()}

    before = change(everything)
    for element in elements:
        what = f"training is not equivariant under {_name(element)}"
        _compare(element.apply(before), change(element.apply(everything)), tolerance, what, _of_size)


def assert_layer_equivariant(
    layer: Callable[[Tensor], Tensor],
    x: Tensor,
    order: Sequence[int],
    *,
    axis: int,
    out_axis: int | None = None,
    invariant: bool = False,
    tolerance: float | None = None,
) -> None:
    """Permuting an axis of a layer's input permutes its output alike, or leaves it as it is.

    Args:
        layer: A function of one tensor.
        x: Its input.
        order: The permutation: what comes to stand first, second, ...
        axis: Of the input.
        out_axis: Of the output; the same by default.
        invariant: The output must not change at all.
        tolerance: See `assert_equivariant`.

    Raises:
        SymmetryError: it does not.

    Example:
        >>> import torch
        >>> from ngopt.testing import assert_layer_equivariant
        >>> assert_layer_equivariant(lambda x: x - x.mean(1, keepdim=True), torch.randn(2, 3, 4), [2, 0, 1], axis=1)
    """
    index = torch.as_tensor(order, device=x.device)
    if sorted(index.tolist()) != list(range(x.shape[axis])):
        raise ValueError(f"order must be a permutation of 0 ... {x.shape[axis] - 1}, not {index.tolist()}.")
    before, after = layer(x), layer(x.index_select(axis, index))
    wanted = before if invariant else before.index_select(axis if out_axis is None else out_axis, index)
    word = "invariant" if invariant else "equivariant"
    _compare(
        {"output": wanted}, {"output": after}, tolerance,
        f"the layer is not {word} under the order {index.tolist()} of axis {axis} of an input {tuple(x.shape)}",
    )  # fmt: skip


def _name(element: GroupElement) -> str:
    return f"{element!r} of {', '.join(element.parameters)}"


def _numbered(result: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
    tensors = [result] if isinstance(result, Tensor) else list(result)
    return {f"result {i}" if len(tensors) > 1 else "result": x for i, x in enumerate(tensors)}


def _of_spread(wanted: Tensor, found: Tensor) -> float:
    return relative_error([wanted], [found])


def _of_size(wanted: Tensor, found: Tensor) -> float:
    """For changes of weights: where all entries move alike, the spread may be no larger than the weights' rounding."""
    if not wanted.numel():
        return 0.0
    error = (wanted - found).abs().max().item() / (wanted.abs().max().item() or 1.0)
    return error if error == error else float("inf")


def _compare(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    tolerance: float | None,
    what: str,
    measure: Callable[[Tensor, Tensor], float] = _of_spread,
) -> None:
    if wanted.keys() != found.keys():
        raise SymmetryError(f"{what}: results are of {sorted(wanted)} before, and of {sorted(found)} after.")
    allowed = tolerance_of(*wanted.values()) if tolerance is None else tolerance
    errors = {name: measure(x, found[name]) for name, x in wanted.items()}
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is not None and not errors[worst] <= allowed:
        raise SymmetryError(
            f"{what}: {worst} differs by {errors[worst]:.1e} of its {'spread' if measure is _of_spread else 'size'}, "
            f"allowed are {allowed:.0e} in {str(wanted[worst].dtype).removeprefix('torch.')}."
        )
