"""Wait for the first forward pass that the user's own loop makes, and trace what it runs.

A forward pre-hook takes itself off before it does anything else. It keeps no reference to the data: the graph that
comes out holds index tensors only. Code that is being compiled cannot be interrupted, so inside ``torch.compile`` the
hook only notes shapes, dtypes and devices, and the next step traces with made-up inputs of those shapes. So it is for
lazy modules, whose first pass makes their parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim import capture

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "OptimizedModule")
Report = Callable[[NeuralGraph | None, str, Exception | None], None]


class Listener:
    """Listens to a model until it runs once.

    Args:
        model: The model, wrapped or not.
        report: A bound method, held weakly: called with the graph and the path of the traced module inside the model
            (``""``, or ``"net."``); or with None and an error; or, if there is nothing to trace yet, with None twice.
    """

    def __init__(self, model: nn.Module, report: Report) -> None:
        self.model = model
        self._report = weakref.WeakMethod(report)
        self._hooks = [CaptureHook(module, prefix, self._trace) for module, prefix in hook_points(model)]

    def stop(self) -> None:
        """Take all hooks off; calling it again does nothing."""
        for hook in self._hooks:
            hook.remove()

    def settle(self) -> None:
        """Before a step without a graph: use what a forward pass noted, or report that there was none."""
        for hook in self._hooks:
            if hook.noted is not None:
                return self._trace(hook.prefix, *make_inputs(hook.noted))
        if (report := self._report()) is not None:
            report(None, "", None)

    def _trace(self, prefix: str, args: tuple, kwargs: dict[str, Any]) -> None:
        """Trace the module at ``prefix`` with inputs that it was just called with."""
        self.stop()
        report = self._report()
        if report is None:
            return
        module = unwrap(self.model).get_submodule(prefix.rstrip("."))
        with torch.inference_mode(False), torch.no_grad():  # the pass may be one of inference; what follows must not be
            try:
                graph = capture.trace_quietly(module, args, kwargs)
            except Warning:  # warnings are errors here, by the user's choice
                raise
            except Exception as error:
                report(None, prefix, error)
            else:
                report(graph, prefix, None)


class CaptureHook:
    """Forward pre-hook that hands the first real inputs to ``deliver``, once.

    It survives what people do to models: a copied or unpickled hook is inert (it only removes itself), so a deep copy
    of the model, for an exponential moving average say, never reports to the optimizer of the original.

    Args:
        module: The module to listen to.
        prefix: Where ``module`` is inside the model; handed on.
        deliver: A bound method, held weakly: called with ``(prefix, args, kwargs)`` of a forward pass.
    """

    def __init__(self, module: nn.Module, prefix: str, deliver: Callable[[str, tuple, dict], None]) -> None:
        self._deliver: Callable[[], Any] = weakref.WeakMethod(deliver)
        self.prefix = prefix
        self.noted: tuple[tuple, dict] | None = None
        self._handle = module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """See `torch.nn.Module.register_forward_pre_hook`; changes nothing."""
        if torch.compiler.is_compiling():  # plain Python on shapes only: no graph break, not even under fullgraph
            if not _is_exporting():
                self.noted = pytree.tree_map(_spec_of, (args, kwargs))
            return
        if any(is_lazy(param) for param in module.parameters()):  # this pass will give them a shape
            self.noted = pytree.tree_map(_spec_of, (args, kwargs))
            return
        deliver = self._deliver()
        if deliver is None:
            self._remove_from(module)
        elif all(_is_real(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            deliver(self.prefix, args, kwargs)

    def remove(self) -> None:
        """Take the hook off its module; calling it again does nothing."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _remove_from(self, module: nn.Module) -> None:
        """Take a copied hook off the module whose forward pass called it."""
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is self]:
            module._forward_pre_hooks.pop(key)
            module._forward_pre_hooks_with_kwargs.pop(key, None)

    @classmethod
    def _inert(cls) -> CaptureHook:
        hook = cls.__new__(cls)
        hook._deliver = _nothing
        hook._handle = hook.noted = None
        hook.prefix = ""
        return hook

    def __deepcopy__(self, memo: dict) -> CaptureHook:
        """An inert hook."""
        return self._inert()

    def __reduce__(self) -> tuple:
        """An inert hook."""
        return (CaptureHook._inert, ())


def _is_exporting() -> bool:
    """Whether `torch.export` runs the model. Before torch 2.7, strict exports look like compilations."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    return not torch.compiler.is_dynamo_compiling()


def _nothing() -> None:
    """A dead weak reference that can be pickled."""
    return None


def _is_real(leaf: Any) -> bool:
    """Whether a leaf holds values: not a fake, functorch or JIT-traced stand-in."""
    if not isinstance(leaf, Tensor):
        return True
    stand_in = (
        isinstance(leaf, torch._subclasses.FakeTensor)
        or torch._C._functorch.is_functorch_wrapped_tensor(leaf)  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._get_tracing_state() is not None
    )
    return not stand_in


@dataclass(frozen=True)
class TensorSpec:
    """What is left of a tensor once its values are forgotten."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self, generator: torch.Generator) -> Tensor:
        """A tensor of this shape: normal draws if floating, else ones (a valid token, an open mask)."""
        if self.dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator).to(self.device, self.dtype)
        return torch.ones(self.shape, dtype=self.dtype, device=self.device)


def _spec_of(leaf: Any) -> Any:
    return TensorSpec(tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def make_inputs(noted: tuple[tuple, dict]) -> tuple[tuple, dict]:
    """Made-up inputs for the shapes that a forward pass noted down."""
    generator = torch.Generator().manual_seed(0)
    return pytree.tree_map(
        lambda leaf: leaf.make(generator) if isinstance(leaf, TensorSpec) else leaf,
        noted,
        is_leaf=lambda leaf: isinstance(leaf, TensorSpec),
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel, DataParallel and ``torch.compile`` wrappers."""
    inner: Any = model
    while type(inner).__name__ in _WRAPPERS:
        inner = inner._orig_mod if type(inner).__name__ == "OptimizedModule" else inner.module
    return inner


def hook_points(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where to listen, with each place's prefix in the unwrapped model: the first of them to run is traced.

    Inside DistributedDataParallel, where the inputs are on the right device. Outside a compiled module, where its
    forward pass is ordinary Python, and outside DataParallel, which runs replicas. Then down the chain of modules that
    alone hold all parameters: a LightningModule's own forward pass often never runs, but that of its network does.
    """
    outer: Any = model
    while type(outer).__name__ == "DistributedDataParallel":
        outer = outer.module
    points: list[tuple[nn.Module, str]] = [(outer, "")]
    inner, prefix = unwrap(model), ""
    while not inner._parameters:
        holders = [(name, child) for name, child in inner.named_children() if any(True for _ in child.parameters())]
        if len(holders) != 1:
            break
        name, inner = holders[0]
        prefix = f"{prefix}{name}."
        points.append((inner, prefix))
    return points
