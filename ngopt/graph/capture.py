"""Capture one forward pass of a module as a functional ATen program.

The pass is recorded while a copy of the module runs on real tensors (`make_fx`), so it follows the branches that the
example inputs take, and no stand-in for a tensor ever reaches the user's code. The recording, which has no Python of
the user's left in it, is then made functional and broken down to core ATen ops.
"""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from ngopt.graph.outside import undoing
from ngopt.graph.recurrence import RecurrentLayersWhole


@dataclass(frozen=True)
class Program:
    """A functional ATen graph and what its placeholders stand for."""

    graph: fx.Graph
    tensors: dict[str, str]  # placeholder -> name of the parameter or buffer
    constants: dict[str, Tensor]  # node -> constant tensor
    outputs: tuple[fx.Node, ...]  # what the module returns
    module_path: dict[str, str]  # node -> path of the module that ran it


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
            module.eval()
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.backends.mha.set_fastpath_enabled(fast_path)


def capture(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Record ``module(*args, **kwargs)`` in evaluation mode.

    Raises:
        TraceError: the forward pass fails on these inputs, with its error as the cause.
    """
    try:
        return _functional(_record(module, args, kwargs))
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TraceError(
            f"{type(module).__name__} could not be run on the example inputs ({what}). "
            "Call it on them yourself; they must be what its forward() expects."
        ) from error


@dataclass(frozen=True)
class _Recording:
    """What a module did, op by op, and the tensors that it did it with."""

    steps: fx.GraphModule
    names: tuple[str, ...]  # of the first placeholders
    tensors: tuple[Tensor, ...]  # for all placeholders
    paths: dict[str, str]  # node -> path of the module that ran it


def _record(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Recording:
    copied = isolated(module)
    (args, kwargs), inputs = detached((tuple(args), dict(kwargs)))
    state = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    entered: dict[str, str] = {}  # last node before a module starts, or goes on -> its path

    def run(_: list[Tensor], __: list[Tensor]) -> list[Tensor]:
        with _noting_paths(copied, entered), RecurrentLayersWhole():
            return output_tensors(copied(*args, **kwargs))

    with evaluating(copied):
        steps = make_fx(run, tracing_mode="real", _error_on_data_dependent_ops=False)(list(state.values()), inputs)
    paths = _paths(steps.graph, entered)
    return _Recording(steps, tuple(state), (*state.values(), *inputs), paths)


@contextlib.contextmanager
def _noting_paths(module: nn.Module, entered: dict[str, str]) -> Iterator[None]:
    """Note where in the recording each module starts and where it ends."""
    stack = [""]

    def note() -> None:
        entered[_last_node()] = stack[-1]

    def enter(path: str) -> None:
        stack.append(path)
        note()

    def leave() -> None:
        stack.pop()
        note()

    handles = []
    for path, inner in module.named_modules():
        if not isinstance(inner, torch.jit.ScriptModule):
            handles.append(inner.register_forward_pre_hook(lambda *_, path=path: enter(path), prepend=True))
            handles.append(inner.register_forward_hook(lambda *_: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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


def _functional(recording: _Recording) -> Program:
    """Without writes in place, and broken down to core ops; on stand-ins for tensors, where sizes allow it."""
    steps = recording.steps
    constants = {str(n.target): _attribute(steps, str(n.target)) for n in steps.graph.nodes if n.op == "get_attr"}
    constants = {target: value for target, value in constants.items() if isinstance(value, Tensor)}
    entered: dict[str, str] = {}

    def run(tensors: list[Tensor]) -> Any:
        given = dict(zip(constants, tensors[len(recording.tensors) :], strict=True))
        return _Replay(recording, given, entered).run(*tensors[: len(recording.tensors)])

    def again(mode: Literal["fake", "real"]) -> fx.GraphModule:
        entered.clear()
        tensors = [tensor.detach() for tensor in (*recording.tensors, *constants.values())]
        with torch.no_grad():
            return make_fx(
                torch.func.functionalize(run, remove="mutations"),
                decomposition_table=_decompositions(),
                tracing_mode=mode,
                _allow_non_fake_inputs=True,
                _error_on_data_dependent_ops=False,
            )([tensor.clone() for tensor in tensors] if mode == "real" else tensors)

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
    values |= dict(zip(placeholders[len(recording.tensors) :], constants.values(), strict=True))
    (output,) = (node for node in graph.nodes if node.op == "output")
    outputs = tuple(node for node in pytree.tree_leaves(output.args) if isinstance(node, fx.Node))
    names = dict(zip(placeholders, recording.names, strict=False))
    return Program(graph, names, values, outputs, _paths(graph, entered))


def _sizes(node: fx.Node) -> list[Any]:
    values = [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]
    return [size for value in values for size in value.shape]


class _Replay(fx.Interpreter):
    """Runs a recording again, on other tensors and constants, and notes which op of it comes from which module."""

    def __init__(self, recording: _Recording, constants: Mapping[str, Tensor], entered: dict[str, str]) -> None:
        super().__init__(recording.steps)
        self._paths, self._constants, self._entered = recording.paths, constants, entered

    def run_node(self, n: fx.Node) -> Any:
        self._entered[_last_node()] = self._paths.get(n.name, "")
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._constants[target] if target in self._constants else super().get_attr(target, args, kwargs)


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


@functools.cache
def _decompositions() -> dict[Any, Any]:
    more = get_decompositions([torch.ops.aten._scaled_dot_product_flash_attention_for_cpu])
    return {**core_aten_decompositions(), **more}
