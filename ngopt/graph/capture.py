"""Capture one forward pass of a module as a functional ATen program.

The pass is recorded while a copy of the module runs on real tensors, so it follows the branches that the example
inputs take, and no stand-in for a tensor ever reaches the user's code. The recording, which has no Python of the user's
left in it, is then made functional and broken down to core ATen ops (`make_fx`).
"""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from ngopt.errors import TraceError
from ngopt.graph.isolation import detached, isolated
from ngopt.graph.loops import rolled
from ngopt.graph.outside import undoing
from ngopt.graph.quantisation import WRITTEN_OUT
from ngopt.graph.recording import Recording, record
from ngopt.graph.recurrence import RecurrentLayersWhole
from ngopt.warn import warn

LONG = 1_000  # ops
LONG_PER_TENSOR = 25  # ops for each parameter
SECONDS_PER_OP = 0.003  # of what comes after recording, on one core


@dataclass(frozen=True)
class Program:
    """A functional ATen graph and what its placeholders stand for."""

    graph: fx.Graph
    tensors: dict[str, str]  # placeholder -> name of the parameter or buffer
    constants: dict[str, Tensor]  # node -> constant tensor
    outputs: tuple[fx.Node, ...]  # what the module returns
    module_path: dict[str, str]  # node -> path of the module that ran it
    is_whole: bool = True  # not so if only the first iterations of a loop are left
    given: Mapping[str, float] = field(default_factory=dict)  # see `ngopt.graph.elements`


def output_tensors(outputs: Any) -> list[Tensor]:
    """The tensors that a module returned, in order, without key/value caches."""
    if isinstance(outputs, Mapping):
        outputs = [value for key, value in outputs.items() if key != "past_key_values"]
    leaves = pytree.tree_leaves(outputs)
    nested = [leaf for leaf in leaves if isinstance(leaf, Mapping)]
    if nested:
        leaves = [x for leaf in leaves for x in (output_tensors(leaf) if isinstance(leaf, Mapping) else [leaf])]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a copy of a user's module in evaluation mode: plain ops, and the caller's random state as it was afterwards.

    Args:
        module: A copy that may be changed; see `ngopt.graph.isolation`.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # what the user's code warns of, it has said in the user's own pass
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(undoing(module))
        try:
            for part in module.modules():
                part.training = False  # not by eval(): modules override it, and train()
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.backends.mha.set_fastpath_enabled(fast_path)


def capture(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, roll: bool = False) -> Program:
    """Record ``module(*args, **kwargs)`` in evaluation mode.

    Args:
        module: What to run; it is a copy that runs.
        args: Inputs.
        kwargs: Inputs by name.
        roll: Keep only the first few iterations of loops; see `ngopt.graph.loops`.

    Raises:
        TraceError: the forward pass fails on these inputs, with its error as the cause.

    Warns:
        UserWarning: the recording is very long, so that the rest will take a while.
    """
    try:
        recording = _record(module, args, kwargs)
        short = rolled(recording) if roll else recording
        _warn_long(module, short)
        return _functional(short, is_whole=short is recording)
    except Warning:  # warnings are errors here, by the user's choice
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TraceError(
            f"{type(module).__name__} could not be run on the example inputs ({what}). "
            "Call it on them yourself; they must be what its forward() expects."
        ) from error


def _record(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recording:
    copied = isolated(module)
    (args, kwargs), inputs = detached((tuple(args), dict(kwargs)))
    state = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}

    def run() -> list[Tensor]:
        with RecurrentLayersWhole():
            return output_tensors(copied(*args, **kwargs))

    with evaluating(copied):
        return record(copied, state, inputs, run)


def _warn_long(module: nn.Module, recording: Recording) -> None:
    """Only of loops: a deep network has few calls for each of its parameters, and needs them all."""
    if (count := len(recording.steps)) > max(LONG, LONG_PER_TENSOR * len(recording.names)):
        warn(
            f"the forward pass of {type(module).__name__} is {count:,} ops long, as Python loops are, and no two "
            f"iterations are alike: tracing takes about {count * SECONDS_PER_OP:.0f} s, once. "
            "Shorter inputs usually have the same graph: NGOptimizer(model, graph=ngopt.trace(model, shorter_inputs)). "
            "Layers such as torch.nn.LSTM, and loops of equal iterations, cost the same at any length.",
        )


def _last_node() -> str:
    """The name of the op that was recorded last."""
    mode = get_proxy_mode()
    return next((node.name for node in reversed(mode.tracer.graph.nodes)), "") if mode is not None else ""


def _paths(graph: fx.Graph, entered: Mapping[str, str]) -> dict[str, str]:
    """Node -> path of the module that it is of."""
    paths, path = {}, entered.get("", "")
    for node in graph.nodes:
        paths[node.name] = path
        path = entered.get(node.name, path)
    return paths


def _functional(recording: Recording, is_whole: bool) -> Program:
    """Without writes in place, and broken down to core ops; on stand-ins for tensors, where sizes allow it."""
    given = [tensor.detach() for tensor in recording.tensors.values()]
    entered: dict[str, str] = {}

    def run(tensors: list[Tensor]) -> list[Tensor]:
        return recording.replay(tensors, lambda path: entered.__setitem__(_last_node(), path))

    def again(mode: Literal["fake", "real"]) -> fx.GraphModule:
        entered.clear()
        with torch.no_grad():
            return make_fx(
                torch.func.functionalize(run, remove="mutations"),
                decomposition_table=_decompositions(),
                tracing_mode=mode,
                _allow_non_fake_inputs=True,
                _error_on_data_dependent_ops=False,
            )([tensor.clone() for tensor in given] if mode == "real" else given)

    try:
        program = again("fake")
        if any(isinstance(size, torch.SymInt) for node in program.graph.nodes for size in _sizes(node)):
            raise TraceError("sizes depend on values")
    except Exception:
        program = again("real")
    graph = program.graph
    for node in list(graph.nodes):  # what is written back into buffers and constants is no output
        if node.target is torch.ops.aten.copy_.default and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    values = {node.name: getattr(program, node.target) for node in graph.nodes if node.op == "get_attr"}
    named = dict(zip(placeholders, recording.names, strict=False))
    free = {*named, *(placeholders[i] for i, number in enumerate(recording.tensors) if number in recording.inputs)}
    values |= {place: given[i] for i, place in enumerate(placeholders) if place not in free}
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs = tuple(node for node in pytree.tree_leaves(output.args) if isinstance(node, fx.Node))
    return Program(graph, named, values, outputs, _paths(graph, entered), is_whole, recording.given)


def _sizes(node: fx.Node) -> list[Any]:
    values = [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]
    return [size for value in values for size in value.shape]


@functools.cache
def _decompositions() -> dict[Any, Any]:
    more = get_decompositions([torch.ops.aten._scaled_dot_product_flash_attention_for_cpu])
    return {**core_aten_decompositions(), **more, **WRITTEN_OUT}
