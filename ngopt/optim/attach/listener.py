"""Wait for the first forward pass that the user's own loop makes, and trace what ran, once a step needs the graph.

A forward hook copies the inputs of a pass that succeeded, and is taken off when the graph is there. Nothing else
happens inside the user's forward pass, and nothing of the data is kept afterwards. Code that is being compiled cannot
be interrupted, so inside ``torch.compile`` the hook notes shapes, dtypes and devices, and inputs are made up for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.attach import capture
from ngopt.optim.attach.capture import Inputs
from ngopt.optim.attach.hooks import CallHook, ForwardMethod, make_inputs
from ngopt.optim.attach.owner import callers, can_be_called
from ngopt.optim.attach.places import callable_parts, hook_points, is_inside, named_parameters, unwrap, with_prefixes

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
        for prefix, root in with_prefixes(roots):
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
        outermost = tuple(path for path in ran if not any(is_inside(path, other) for other in ran))
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
        for prefix, root in with_prefixes(self.roots):
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


def _count(module: nn.Module) -> int:
    return sum(1 for _ in module.parameters())
