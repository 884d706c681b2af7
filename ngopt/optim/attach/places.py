"""Where in a model to listen for its forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ngopt.optim.attach.owner import can_be_called

_WRAPPERS = ("DistributedDataParallel", "DataParallel", "OptimizedModule")


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel, DataParallel and ``torch.compile`` wrappers."""
    inner: Any = model
    while type(inner).__name__ in _WRAPPERS:
        inner = inner._orig_mod if type(inner).__name__ == "OptimizedModule" else inner.module
    return inner


def named_parameters(roots: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """The parameters of one module, or of several under their numbers, by name."""
    return {
        f"{at}{name}": param for at, root in with_prefixes(roots) for name, param in unwrap(root).named_parameters()
    }


def with_prefixes(roots: Sequence[nn.Module]) -> list[tuple[str, nn.Module]]:
    """Modules, and what is put before the paths inside them: numbers, where there are several."""
    return [("" if len(roots) == 1 else f"{i}.", root) for i, root in enumerate(roots)]


def is_inside(path: str, other: str) -> bool:
    """Whether a path is of a module inside another one."""
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
