"""What waits for the forward pass of a module and notes its inputs: a forward hook, or a method in forward's place."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ngopt.optim.attach import capture
from ngopt.optim.attach.capture import Inputs
from ngopt.optim.attach.owner import can_be_called

_HAS_FLAG = hasattr(torch.compiler, "_is_exporting_flag")


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
