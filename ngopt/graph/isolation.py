"""Copies of a module to experiment with: what the copy's Python writes, it writes to itself.

`copy.deepcopy` refuses some modules (a lock or an activation hangs on them), and copies forward hooks, which write to
places of the user's. Here, every module is rebuilt attribute by attribute. What is tensor, module, container, bound
method or closure is copied; anything else as `copy.deepcopy` does it; and only an object that refuses is shared.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ngopt.graph.sharding import is_sharded, plain, stand_in

_HOOKS = tuple(
    key for key in nn.Module().__dict__ if "hooks" in key and not key.endswith(("with_kwargs", "always_called"))
)
_OF_SHARDING = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_")  # attributes that torch adds
_PLAIN = (int, float, complex, bool, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)


def isolated(
    module: nn.Module,
    state: Mapping[str, Tensor] | None = None,
    cast: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> nn.Module:
    """A copy that shares nothing with the module, as far as its objects can be copied.

    Forward hooks stay behind, except those by which torch itself computes weights (weight and spectral norm, pruning).
    Compiled modules are copied as plain ones.

    Sharded modules (FSDP2, tensor parallelism) are copied as plain ones, whole, without gathering: a sharded parameter
    that is not in ``state`` is made up.

    Args:
        module: The module.
        state: Parameters and buffers that the copy gets, by name. Parameters are used as they are, buffers copied.
            Names that are not listed keep their values.
        cast: Applied to every other tensor.

    Returns:
        The copy. Tied parameters are tied in it, too.
    """
    copier = _Copier(cast)
    for names, is_parameter in ((module.named_parameters, True), (module.named_buffers, False)):
        for name, tensor in names(remove_duplicate=False):
            if id(tensor) not in copier.memo:
                given = (state or {}).get(name)
                fresh = copier.fresh_parameter if is_parameter else copier.fresh
                value = fresh(tensor) if given is None else given if is_parameter else given.clone()
                copier.note(tensor, nn.Parameter(value, tensor.requires_grad) if is_parameter else value)
    return copier.module(module)


def detached(value: Any, cast: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> tuple[Any, list[Tensor]]:
    """A copy of anything, outside of any autograd graph, and all tensors in it.

    Args:
        value: Inputs of a module: nested containers, data classes, packed sequences, or other objects.
        cast: Applied to every tensor.
    """
    copier = _Copier(cast)
    copied = copier.value(value)
    return copied, [x for x in copier.memo.values() if isinstance(x, Tensor)]


class _Copier:
    """One copy in the making; ``memo`` as in `copy.deepcopy`."""

    def __init__(self, cast: Callable[[Tensor], Tensor]) -> None:
        self.memo: dict[int, Any] = {}
        self._cast = cast
        self._alive: list[Any] = []  # originals, so that their ids stay theirs

    def note(self, original: Any, copied: Any) -> Any:
        self.memo[id(original)] = copied
        self._alive.append(original)
        return copied

    def fresh(self, tensor: Tensor) -> Tensor:
        """A copy outside of any autograd graph."""
        value = plain(tensor.detach())
        return self._cast(value.clone() if value.layout == torch.strided else value)

    def fresh_parameter(self, tensor: Tensor) -> Tensor:
        """A copy, or a whole stand-in for one that is sharded."""
        return self._cast(stand_in(tensor)) if is_sharded(tensor) else self.fresh(tensor)

    def module(self, original: nn.Module) -> nn.Module:
        """A copy of a module and of all inside."""
        if id(original) in self.memo:
            return self.memo[id(original)]
        if isinstance(original, torch.jit.ScriptModule):
            return self.note(original, self._script(original))
        kind: type[nn.Module] = _unsharded(type(original))
        is_compiled = kind.__name__ == "OptimizedModule"
        # not the kind's own __new__: that of torch.fx makes another class, without the forward of this one
        copied = _Plain() if is_compiled else object.__new__(kind)
        self.note(original, copied)
        attributes = {key: x for key, x in original.__dict__.items() if not key.startswith(_OF_SHARDING)}
        if is_compiled:
            attributes = {**copied.__dict__, "_modules": attributes["_modules"], "training": original.training}
        attributes["_compiled_call_impl"] = None
        for key in _HOOKS:
            attributes[key] = OrderedDict(
                (k, hook) for k, hook in attributes.get(key, {}).items() if _is_of_torch(hook)
            )
        copied.__dict__.update({key: self.value(value) for key, value in attributes.items()})
        return copied

    def _script(self, original: nn.Module) -> nn.Module:
        copied = copy.deepcopy(original)
        for names in ("named_parameters", "named_buffers"):
            pairs = zip(getattr(copied, names)(), getattr(original, names)(), strict=True)
            for (_, mine), (_, theirs) in pairs:
                mine.data = self.value(theirs).detach()
        return copied

    def value(self, original: Any) -> Any:
        """A copy of anything."""
        if isinstance(original, _PLAIN):
            return original
        if id(original) in self.memo:
            return self.memo[id(original)]
        kind = type(original)
        if isinstance(original, nn.Module):
            return self.module(original)
        if isinstance(original, nn.Parameter):
            return self.note(original, nn.Parameter(self.fresh_parameter(original), original.requires_grad))
        if isinstance(original, Tensor):
            return self.note(original, self.fresh(original))
        if kind in (dict, OrderedDict, defaultdict):
            empty = defaultdict(original.default_factory) if kind is defaultdict else kind()
            copied = self.note(original, empty)
            copied.update((key, self.value(value)) for key, value in original.items())
            return copied
        if kind in (list, deque):
            copied = self.note(original, kind() if kind is list else deque(maxlen=original.maxlen))
            copied.extend(self.value(value) for value in original)
            return copied
        if kind is tuple:
            return self.note(original, tuple(self.value(value) for value in original))
        if kind is types.MethodType:
            return types.MethodType(original.__func__, self.value(original.__self__))
        if kind is functools.partial:
            keywords = {key: self.value(value) for key, value in original.keywords.items()}
            return functools.partial(self.value(original.func), *(self.value(v) for v in original.args), **keywords)
        if kind is types.FunctionType:
            return self._function(original)
        try:
            with _Detaching(self):
                return copy.deepcopy(original, self.memo)
        except Exception:  # a lock, a process group, a file: shared
            return self.note(original, original)

    def _function(self, original: types.FunctionType) -> types.FunctionType:
        """A closure gets cells of its own (a replaced ``forward`` often holds the module that it is of)."""
        if original.__closure__ is None:
            return original
        cells = tuple(types.CellType() for _ in original.__closure__)
        copied = types.FunctionType(
            original.__code__, original.__globals__, original.__name__, original.__defaults__, cells
        )
        copied.__kwdefaults__ = original.__kwdefaults__
        self.note(original, copied)
        for mine, theirs in zip(cells, original.__closure__, strict=True):
            try:
                mine.cell_contents = self.value(theirs.cell_contents)
            except ValueError:  # an empty cell
                continue
        return copied


class _Detaching(TorchFunctionMode):
    """Within objects that `copy.deepcopy` copies, tensors with a history are copied without it, instead of refused."""

    def __init__(self, copier: _Copier) -> None:
        super().__init__()
        self._copier = copier

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            with torch._C.DisableTorchFunction():
                return self._copier.value(args[0])
        return func(*args, **(kwargs or {}))


class _Plain(nn.Module):
    """What a compiled module does, uncompiled."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule("_orig_mod")(*args, **kwargs)


def _unsharded(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that FSDP2's ``fully_shard`` derived another one from, in place; or the class itself."""
    derived = "FSDPModule" in (base.__name__ for base in kind.__mro__)
    return kind.__mro__[getattr(kind, "_orig_cls_mro_index", 2)] if derived else kind


def _is_of_torch(hook: Any) -> bool:
    """Whether a hook is of `torch.nn` (weight norm, spectral norm, pruning): part of the function."""
    hook = hook.func if isinstance(hook, functools.partial) else hook
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.startswith("torch.nn.")
