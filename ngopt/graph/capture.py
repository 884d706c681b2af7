"""Capture one forward pass of a module as a functional ATen program.

`torch.export` (non-strict) comes first. It rejects Python that depends on tensor values; then the same pass is recorded
eagerly with `make_fx` on the real tensors, which follows the branch that the example inputs take.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ngopt.errors import TraceError


@dataclass(frozen=True)
class Program:
    """A functional ATen graph and what its placeholders stand for."""

    graph: fx.Graph
    tensors: dict[str, str]  # placeholder -> name of the parameter or buffer
    constants: dict[str, Tensor]  # placeholder -> constant tensor
    outputs: tuple[fx.Node, ...]  # what the module returns
    module_path: dict[str, str]  # node -> path of the module that ran it


class _Call(nn.Module):
    """The module with its outputs as a flat list of tensors. Caches for decoding are not outputs of the function."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        return output_tensors(self.module(*args, **kwargs))


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
    """Evaluation mode, plain (unfused) attention, and the caller's random state and modes untouched afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    python_state = random.getstate()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        for kind in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            module.eval()
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            random.setstate(python_state)
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for m, training in modes:
                m.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `torch.export` from printing what it rejects: the eager recording comes next."""
    loggers = [logging.getLogger(name) for name in ("torch._subclasses", "torch.export", "torch.fx.experimental")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def capture(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Record ``module(*args, **kwargs)`` in evaluation mode.

    Raises:
        TraceError: the forward pass fails on these inputs, with its error as the cause.
    """
    call = _Call(module)
    with evaluating(module), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            return _export(call, args, kwargs)
        except Exception as export_error:
            try:
                return _record(call, args, kwargs)
            except Exception as error:
                what = f"{type(error).__name__}: {error}".splitlines()[0]
                raise TraceError(
                    f"{type(module).__name__} could not be run on the example inputs ({what}). "
                    "Call it on them yourself; they must be what its forward() expects."
                ) from (error if _fails_by_itself(module, args, kwargs) else export_error)


def _fails_by_itself(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception:
        return True
    return False


def _export(call: _Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    exported = torch.export.export(call, (tuple(args), dict(kwargs)), strict=False).run_decompositions()
    if any(isinstance(size, torch.SymInt) for node in exported.graph.nodes for size in _sizes(node)):
        raise TraceError("sizes depend on values")
    tensors, constants = {}, {}
    for spec in exported.graph_signature.input_specs:
        name, target = spec.arg.name, spec.target
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            assert target is not None
            tensors[name] = target.removeprefix("module.")
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            constants[name] = exported.constants[str(target)]
    by_name = {node.name: node for node in exported.graph.nodes}
    outputs = tuple(
        by_name[spec.arg.name]
        for spec in exported.graph_signature.output_specs
        if spec.kind == OutputKind.USER_OUTPUT and spec.arg.name in by_name
    )
    return Program(exported.graph, tensors, constants, outputs, _module_paths(exported.graph))


def _sizes(node: fx.Node) -> list[Any]:
    values = [v for v in pytree.tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]
    return [size for value in values for size in value.shape]


def _record(call: _Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    inputs = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def run(tensors: list[Tensor], given: list[Tensor]) -> list[Tensor]:
        filled = list(leaves)
        for i, tensor in zip(inputs, given, strict=True):
            filled[i] = tensor
        return torch.func.functional_call(
            call, dict(zip(state, tensors, strict=True)), pytree.tree_unflatten(filled, spec)
        )

    # state and inputs are copied, so that in-place writes of the module reach no one
    clones = [t.detach().clone() for t in state.values()], [leaves[i].detach().clone() for i in inputs]
    table: dict[Any, Any] = {
        **core_aten_decompositions(),
        **get_decompositions([torch.ops.aten._scaled_dot_product_flash_attention_for_cpu]),
    }
    with torch.no_grad():
        traced = make_fx(
            torch.func.functionalize(run, remove="mutations"),
            decomposition_table=table,
            tracing_mode="real",
            _error_on_data_dependent_ops=False,
        )(*clones)
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    names = {node.name: name.removeprefix("module.") for node, name in zip(placeholders, state, strict=False)}
    constants = {n.name: getattr(traced, n.target) for n in traced.graph.nodes if n.op == "get_attr"}
    (output,) = (node for node in traced.graph.nodes if node.op == "output")
    outputs = tuple(node for node in pytree.tree_leaves(output.args) if isinstance(node, fx.Node))
    return Program(traced.graph, names, constants, outputs, _module_paths(traced.graph))


def _module_paths(graph: fx.Graph) -> dict[str, str]:
    paths = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        paths[node.name] = path.split("L['self'].")[-1].removeprefix("module").removeprefix(".")
    return paths
