"""Wait for the first forward pass that the user's own loop makes, and trace what ran, once a step needs the graph.

A forward hook copies the inputs of a pass that succeeded, and is taken off when the graph is there. Nothing else
happens inside the user's forward pass, and nothing of the data is kept afterwards. Code that is being compiled cannot
be interrupted, so inside ``torch.compile`` the hook notes shapes, dtypes and devices, and inputs are made up for them.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.attach import capture
from ngopt.optim.attach.capture import Inputs
from ngopt.optim.attach.owner import callers, can_be_called

_HAS_FLAG = hasattr(torch.compiler, "_is_exporting_flag")
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "OptimizedModule")
PATIENCE = 10  # steps until modules that were never called are not waited for any more


class NothingRan(Exception):
    """No module has been called yet."""


def why_no_graph(error: Exception) -> str:
    """What to say where `Listener.settle` found no graph."""
    if isinstance(error, NothingRan):
        return (
            "No forward pass of the model or of its parts was seen, so there is no neural graph yet; all parameters "
            "take the per-tensor rule until one is. Pass NGOptimizer(model, example_inputs=...) to trace at once. A "
            "model that is used by another method than forward needs a forward that calls that method, to be traced as "
            "a whole."
        )
    return (
        f"The neural graph could not be captured ({type(error).__name__}: {error}); all parameters take the "
        "per-tensor rule. ngopt.trace(model, inputs) shows the error in full."
    )


class Listener:
    """Listens to the modules of a model until what is trained has run once.

    Args:
        roots: The model, wrapped or not; or several modules that are trained together.
        notice: A bound method, held weakly: called inside the forward pass whose inputs are noted.
    """

    def __init__(self, roots: Sequence[nn.Module], notice: Callable[[], None]) -> None:
        self._roots: list[Callable[[], nn.Module | None]] = [weakref.ref(root) for root in roots]
        self._notice = weakref.WeakMethod(notice)
        self._traced: tuple[str, ...] = ()  # paths of the modules that the last graph is of
        self._steps = 0
        self._hooks: dict[str, CallHook] = {}
        self._others: list[CallHook] | None = None  # of other modules with these parameters; None: not looked for
        self._handles: list[RemovableHandle | ForwardMethod] = []
        weakref.finalize(self, _remove, self._handles).atexit = False
        self._wholes: list[str] = []  # paths of modules that hold all parameters of a root
        for prefix, root in _with_prefixes(roots):
            points, count = dict(hook_points(root, prefix)), _count(root)
            self._listen_to(points.items())
            self._wholes += [path for path, module in points.items() if _count(module) == count]

    @property
    def roots(self) -> list[nn.Module]:
        """The modules that are listened to, those that are still alive; others once it is others that run."""
        return [root for ref in self._roots if (root := ref()) is not None]

    @property
    def listening(self) -> bool:
        """Whether there are hooks left."""
        return bool(self._hooks)

    def stop(self) -> None:
        """Take all hooks off and forget the inputs; calling it again does nothing."""
        _remove(self._handles)
        self._hooks = {}

    def _listen_to(self, points: Iterable[tuple[str, nn.Module]]) -> None:
        for path, module in points:
            if path not in self._hooks:
                self._hooks[path] = CallHook(module, self._notice)
                self._handles.append(self._hooks[path].handle)

    def settle(self, *, stepping: bool = False) -> NeuralGraph | Exception | None:
        """Trace what has run, if anything new has.

        Args:
            stepping: A step is about to be made: it is counted, and wants to know why there is no graph for it.

        Returns:
            The graph; or why there is none; or None, where nothing new ran.
        """
        self._turn_to_another()
        ran = {path: hook for path, hook in self._hooks.items() if hook.ran}
        outermost = tuple(path for path in ran if not any(_is_inside(path, other) for other in ran))
        self._steps += stepping
        if self._others is None and not self._is_whole() and (outermost or stepping):
            self._others = self._listen_to_others()
            if not outermost:
                self._listen_closer()
            if self._others or not outermost:
                return None
        if not outermost:
            return NothingRan() if stepping and not self._traced else None
        if outermost != self._traced:
            self._traced = outermost
            modules = {path: unwrap(module) for path in outermost if (module := ran[path].module) is not None}
            calls = {path: make_inputs(noted) for path in outermost if (noted := ran[path].noted) is not None}
            if not self._is_awaited(modules.values()):
                self.stop()
            return self._trace(modules, calls)
        if self._steps >= PATIENCE:
            self.stop()
        return None

    def _is_whole(self) -> bool:
        """Whether a model has run, and not only parts of it."""
        return any(self._hooks[path].ran for path in self._wholes)

    def _listen_to_others(self) -> list[CallHook]:
        """Perhaps another module that has the same parameters is what runs; the smallest comes first."""
        own = {id(unwrap(root)) for root in self.roots}
        others = [m for m in callers(named_parameters(self.roots).values()) if id(unwrap(m)) not in own]
        hooks = [CallHook(module, self._notice) for module in others]
        self._handles += [hook.handle for hook in hooks]
        return hooks

    def _listen_closer(self) -> None:
        """Perhaps forward is called as a method, or parts are called one by one."""
        for prefix, root in _with_prefixes(self.roots):
            self._listen_to(callable_parts(unwrap(root), prefix))
        self._handles += [ForwardMethod.watch(m, hook) for hook in self._hooks.values() if (m := hook.module)]

    def _turn_to_another(self) -> None:
        """Where another module with the same parameters runs, and the model does not, that one is the model."""
        found = next((hook for hook in self._others or () if hook.ran), None)
        if found is not None and not self._is_whole():
            self._roots, self._hooks, self._wholes = [found.reference], {"": found}, [""]

    def _is_awaited(self, found: Iterable[nn.Module]) -> bool:
        """Whether a module that could still be called has other parameters than those found."""
        held = {id(param) for module in found for param in module.parameters()}
        waiting = [module for hook in self._hooks.values() if hook.noted is None and (module := hook.module)]
        return any(id(p) not in held for module in waiting if can_be_called(module) for p in module.parameters())

    def _trace(self, modules: dict[str, nn.Module], calls: dict[str, Inputs]) -> NeuralGraph | Exception:
        try:
            if modules.keys() == {""}:
                return capture.trace_quietly(modules[""], *calls[""])
            return capture.trace_quietly(Calls(modules), tuple(calls.values()))
        except Warning:  # warnings are errors here, by the user's choice
            raise
        except Exception as error:
            self.stop()
            return error


def _remove(handles: list[RemovableHandle | ForwardMethod]) -> None:
    while handles:
        handles.pop().remove()


class Calls(nn.Module):
    """Several modules of one model, under their paths in it, each called on inputs of its own."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self._paths = tuple(modules)
        for path, module in modules.items():
            *outer, name = path.split(".")
            node: nn.Module = self
            for part in outer:
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            node.add_module(name, module)

    def forward(self, *calls: Inputs) -> list[Any]:
        """Outputs of all modules."""
        return [
            self.get_submodule(path)(*args, **kwargs) for path, (args, kwargs) in zip(self._paths, calls, strict=True)
        ]


class CallHook:
    """Forward hook that notes the first inputs that a module was called with, once.

    It survives what people do to models: a copied or unpickled hook is inert (it only removes itself), so a deep copy
    of the model, for an exponential moving average say, never counts as the original.
    """

    def __init__(self, module: nn.Module, notice: Callable[[], Callable[[], None] | None]) -> None:
        self._notice = notice
        self.noted: Inputs | None = None  # with `TensorSpec` for tensors, if the pass was being compiled
        self.reference: Callable[[], nn.Module | None] = weakref.ref(module)
        # not the method of the module: a scripted module hides it, but does call its hooks
        self.handle = nn.Module.register_forward_hook(module, self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """See `torch.nn.Module.register_forward_hook`; changes nothing."""
        if torch.compiler.is_compiling():  # plain Python on shapes only: no graph break, not even under fullgraph
            if not _is_exporting():
                self.noted = pytree.tree_map(_spec_of, (args, kwargs))
            return
        if self.reference() is None:
            self._remove_from(module)
        elif self.noted is None and all(_is_real(leaf) for leaf in pytree.tree_leaves((args, kwargs))):
            if (notice := self._notice()) is not None:
                notice()
            with contextlib.suppress(Exception):  # objects that cannot be copied: the user's pass goes on
                self.noted = capture.keep_inputs((args, kwargs), module)

    @property
    def module(self) -> nn.Module | None:
        """The module, while it is alive."""
        return self.reference()

    @property
    def ran(self) -> bool:
        """Whether inputs were noted, of a module that is still alive."""
        return self.noted is not None and self.module is not None

    def _remove_from(self, module: nn.Module) -> None:
        """Take a copied hook off the module whose forward pass called it."""
        for key in [key for key, hook in module._forward_hooks.items() if hook is self]:
            module._forward_hooks.pop(key)
            module._forward_hooks_with_kwargs.pop(key, None)

    @classmethod
    def _inert(cls) -> CallHook:
        hook = cls.__new__(cls)
        hook.reference, hook._notice, hook.noted = _nothing, _nothing, None
        return hook

    def __deepcopy__(self, memo: dict) -> CallHook:
        """An inert hook."""
        return self._inert()

    def __reduce__(self) -> tuple:
        """An inert hook."""
        return (CallHook._inert, ())


class ForwardMethod:
    """Stands in for the ``forward`` of one module, and tells a hook of calls: ``net.forward(x)`` calls no hooks.

    It is there only while no forward pass was seen by a hook. A copy, made with its module, knows no hook, and goes
    when it is called.
    """

    def __init__(self, module: nn.Module, hook: CallHook | None = None) -> None:
        self._module, self._hook = weakref.ref(module), hook

    @classmethod
    def watch(cls, module: nn.Module, hook: CallHook) -> ForwardMethod:
        """Put one in the place of the method, unless something else is there."""
        method = cls(module, hook)
        if can_be_called(module) and not isinstance(module, torch.jit.ScriptModule):
            module.__dict__.setdefault("forward", method)
        return method

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The method, whose signature this has."""
        module = self._module()
        assert module is not None  # whose attribute this is
        return functools.partial(type(module).forward, module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the method."""
        module, method = self._module(), self.__wrapped__
        if self._hook is None or module is None:
            self.remove()
            return method(*args, **kwargs)
        output = method(*args, **kwargs)
        self._hook(module, args, kwargs, output)
        return output

    def remove(self) -> None:
        """Give the place back."""
        module = self._module()
        if module is not None and module.__dict__.get("forward") is self:
            del module.__dict__["forward"]

    def __deepcopy__(self, memo: dict) -> ForwardMethod:
        """Of the module that is copied with it."""
        return type(self)(memo.get(id(self._module()), self._module()))

    def __reduce__(self) -> tuple:
        """Of the module that is pickled with it."""
        return (type(self), (self._module(),))


def _is_exporting() -> bool:
    """Whether `torch.export` runs the model.

    Behind `torch.compiler.is_exporting`, which torch 2.6 lacks, and which is always true in code that 2.11 compiles.
    """
    if _HAS_FLAG:
        return torch.compiler._is_exporting_flag
    from torch.export import _trace  # not at the top: it imports a compiler

    return _trace._EXPORT_MODULE_HIERARCHY is not None


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
            drawn = torch.randn(self.shape, generator=generator, dtype=torch.float32)
            return drawn.to(self.device, self.dtype)
        return torch.ones(self.shape, dtype=self.dtype, device=self.device)


def _spec_of(leaf: Any) -> Any:
    return TensorSpec(tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def make_inputs(noted: Inputs) -> Inputs:
    """Inputs as they were noted, made up where only shapes were."""
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


def named_parameters(roots: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of one module, or of several under their numbers, by name."""
    return {
        f"{at}{name}": param for at, root in _with_prefixes(roots) for name, param in unwrap(root).named_parameters()
    }


def _count(module: nn.Module) -> int:
    return sum(1 for _ in module.parameters())


def _with_prefixes(roots: Sequence[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [("" if len(roots) == 1 else f"{i}.", root) for i, root in enumerate(roots)]


def _is_inside(path: str, other: str) -> bool:
    return path != other and (not other or path.startswith(f"{other}."))


def hook_points(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Where to listen: modules with their paths in the unwrapped model.

    Inside DistributedDataParallel, where the inputs are on the right device. Outside a compiled module, where its
    forward pass is ordinary Python, and outside DataParallel, which runs replicas. Then down the chain of modules that
    alone hold all parameters: a LightningModule's own forward pass often never runs, but that of its network does.
    Where the chain ends at a module without a forward pass (an actor and a critic), its parts.
    """
    outer: Any = model
    while type(outer).__name__ == "DistributedDataParallel":
        outer = outer.module
    yield prefix.rstrip("."), outer
    inner = unwrap(model)
    while not inner._parameters:
        holders = _holders(inner)
        if len(holders) != 1:
            break
        ((name, inner),) = holders
        prefix = f"{prefix}{name}."
        yield prefix.rstrip("."), inner
    if not can_be_called(inner):
        yield from callable_parts(inner, prefix)


def callable_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules inside that hold parameters and have a forward pass."""
    for name, child in _holders(module):
        if can_be_called(child):
            yield f"{prefix}{name}", child
        else:
            yield from callable_parts(child, f"{prefix}{name}.")


def _holders(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that hold parameters."""
    return [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
