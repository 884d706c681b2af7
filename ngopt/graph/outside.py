"""What a forward pass writes outside of its module, undone.

Python code can write to global variables, to closures, to attributes of classes, and into whatever containers these
hold: tables that are filled on first use, lists of auxiliary losses, running counts. All of it can be found from the
code itself: a function names the globals that it uses. `undoing` looks there before, and puts back what has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

MAX_OBJECTS = 20_000  # looked at; programs have a few hundred
MAX_ENTRIES = 2**22  # of all tensors that are kept to be put back
_OF_MODULES = frozenset(nn.Module().__dict__)  # copied already
_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict, bytearray)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_FOREIGN = {"torch", "numpy", "einops", *sys.stdlib_module_names} - {"__main__"}


_active: ContextVar[_Snapshot | None] = ContextVar("_active", default=None)


@contextlib.contextmanager
def undoing(module: nn.Module) -> Iterator[None]:
    """Put back what is written outside of ``module`` by its forward pass: bindings, containers, tensors.

    Inside of another `undoing`, what that one looked at is put back, without looking again.
    """
    snapshot = _active.get() or _Snapshot(module)
    token = _active.set(snapshot)
    try:
        yield
    finally:
        _active.reset(token)
        snapshot.restore()


class _Snapshot:
    """Everything that code can reach, as it was."""

    def __init__(self, module: nn.Module) -> None:
        self._seen: dict[int, Any] = {}
        self._entries = 0  # of tensors that are kept
        self._restorers: list[Callable[[], None]] = []
        for inner in module.modules():
            self.look_at_class(type(inner))
            for name, value in inner.__dict__.items():  # a replaced ``forward``; what could not be copied
                if name not in _OF_MODULES and not isinstance(value, nn.Module):
                    self.look_at(value)

    def restore(self) -> None:
        for restorer in self._restorers:
            restorer()

    def look_at(self, value: Any) -> None:
        """Remember a value, and what it holds."""
        todo = [value]
        while todo and len(self._seen) < MAX_OBJECTS:
            value = todo.pop()
            if id(value) in self._seen or isinstance(value, int | float | str | bytes | None):
                continue
            self._seen[id(value)] = value
            todo += self._inside(value)

    def look_at_class(self, kind: type) -> None:
        """The methods and attributes of a class, and of those that it derives from."""
        for base in kind.__mro__:
            if not _is_foreign(base.__module__):
                self.look_at(base)

    def _inside(self, value: Any) -> list[Any]:
        kind = type(value)
        if isinstance(value, Tensor):
            self._tensor(value)
        elif kind in _CONTAINERS:
            self._container(value)
            return list(value.values()) if isinstance(value, dict) else [] if kind is bytearray else list(value)
        elif kind is tuple:
            return list(value)
        elif isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        elif kind is types.MethodType:
            return [value.__func__, value.__self__]
        elif kind in (staticmethod, classmethod, functools._lru_cache_wrapper):
            return [value.__wrapped__]
        elif kind is property:
            return [value.fget]
        elif kind is types.FunctionType:
            return self._function(value)
        elif isinstance(value, type):
            return self._attributes(value, vars(value)) if not _is_foreign(value.__module__) else []
        elif kind in _NAMESPACES:
            return self._attributes(value, value.__dict__)
        elif isinstance(value, nn.Module) or _is_foreign(kind.__module__) or not hasattr(value, "__dict__"):
            return []
        else:
            self.look_at_class(kind)
            return self._attributes(value, value.__dict__)
        return []

    def _function(self, function: Any) -> list[Any]:
        """The globals that a function names, what its closure holds, and its defaults."""
        if type(function) is not types.FunctionType or _is_foreign(function.__module__ or ""):
            return []
        found: list[Any] = [function.__defaults__ or ()]
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
            for name in code.co_names:
                if name in function.__globals__:
                    value = function.__globals__[name]
                    self._binding(function.__globals__, name, value)
                    if isinstance(value, types.ModuleType):
                        if not _is_foreign(value.__name__):  # ``library.table[key] = ...``
                            found += [value.__dict__[n] for n in code.co_names if n in value.__dict__]
                    else:
                        found.append(value)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                value = cell.cell_contents
                self._restorers.append(functools.partial(setattr, cell, "cell_contents", value))
                found.append(value)
        return found

    def _binding(self, scope: dict[str, Any], name: str, value: Any) -> None:
        def restore() -> None:
            if scope.get(name) is not value:
                scope[name] = value

        self._restorers.append(restore)

    def _attributes(self, owner: Any, attributes: Any) -> list[Any]:
        before = dict(attributes)

        def restore() -> None:
            for name, value in before.items():
                if owner.__dict__.get(name, owner) is not value:
                    setattr(owner, name, value)
            for name in owner.__dict__.keys() - before.keys():
                if not name.startswith("__"):
                    delattr(owner, name)

        self._restorers.append(restore)
        return list(before.values())

    def _container(self, value: Any) -> None:
        before = value.copy()

        def restore() -> None:
            if len(value) != len(before) or not _same(value, before):
                value.clear()
                (value.extend if isinstance(value, list | deque | bytearray) else value.update)(before)

        self._restorers.append(restore)

    def _tensor(self, value: Tensor) -> None:
        if isinstance(value, nn.Parameter) or value.layout != torch.strided or value.is_meta or value.is_inference():
            return
        self._entries += value.numel()
        if self._entries > MAX_ENTRIES:
            return
        version, before = value._version, value.detach().clone()

        def restore() -> None:
            if value._version != version:
                with torch.no_grad():
                    value.detach().copy_(before)

        self._restorers.append(restore)


def _same(value: Any, before: Any) -> bool:
    """Whether a container holds the very same objects."""
    if isinstance(value, dict):
        return all(key in value and value[key] is kept for key, kept in before.items())
    if isinstance(value, set | bytearray):
        return value == before
    return all(x is y for x, y in zip(value, before, strict=True))


def _is_foreign(name: str) -> bool:
    return name.split(".", 1)[0] in _FOREIGN
