"""Which modules do these parameters belong to?

Most programs build an optimizer from ``model.parameters()`` alone. The modules are found among those that are alive, by
the identity of their parameters.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class _Holders:
    """All modules alive that hold some of the tensors that are looked for, themselves or inside."""

    modules: dict[int, nn.Module]  # by id
    held: dict[int, set[int]]  # ids of the tensors that each holds
    sizes: dict[int, int]  # how many modules are inside


def _holders(tensors: Iterable[Tensor]) -> _Holders:
    wanted = {id(tensor) for tensor in tensors}
    own: dict[int, set[int]] = {}  # module -> wanted tensors that it holds itself
    parents: dict[int, list[nn.Module]] = {}
    found: dict[int, nn.Module] = {}
    for module in gc.get_objects():
        if not issubclass(type(module), nn.Module) or "_modules" not in module.__dict__:
            continue
        if mine := wanted.intersection(id(p) for p in module._parameters.values()):
            own[id(module)], found[id(module)] = mine, module
        for child in module._modules.values():
            parents.setdefault(id(child), []).append(module)
    above = list(found.values())
    while above:
        for parent in parents.get(id(above.pop()), []):
            if id(parent) not in found:
                found[id(parent)] = parent
                above.append(parent)
    inside = {key: [id(m) for m in module.modules()] for key, module in found.items()}
    held = {key: set[int]().union(*(own.get(m, set()) for m in members)) for key, members in inside.items()}
    return _Holders(found, held, {key: len(members) for key, members in inside.items()})


def owners(tensors: Sequence[Tensor]) -> list[nn.Module]:
    """The modules that hold the tensors as parameters, as few and as small as possible.

    One where one holds all of them: the smallest, but rather one that can be called (a `torch.nn.ModuleList` cannot).
    Several, such as an encoder and a decoder, where none does. Tensors that are in no module, such as a coefficient
    that is learned beside a network, are left out; empty where all are.
    """
    holders = _holders(tensors)
    modules, held, sizes = holders.modules, holders.held, holders.sizes
    wanted = set[int]().union(*held.values())
    found: list[nn.Module] = []
    while wanted:
        key = max(modules, key=lambda k: (len(held[k] & wanted), can_be_called(modules[k]), -sizes[k]))
        found.append(modules[key])
        wanted -= held[key]
    return found


def callers(tensors: Iterable[Tensor]) -> list[nn.Module]:
    """All modules that hold all of the tensors and have a forward pass, the smallest first.

    Several where modules share parameters: a second network built of the layers of the first, or one that is around it.
    """
    tensors = list(tensors)
    holders = _holders(tensors)
    wanted = {id(tensor) for tensor in tensors}
    found = [k for k, module in holders.modules.items() if holders.held[k] == wanted and can_be_called(module)]
    return [holders.modules[key] for key in sorted(found, key=lambda k: holders.sizes[k])]


def can_be_called(module: nn.Module) -> bool:
    """Whether a module has a forward pass."""
    # not getattr: a module of torch.jit.trace has a forward that its class cannot be asked for
    return "forward" in module.__dict__ or inspect.getattr_static(type(module), "forward") is not nn.Module.forward


def listed(params: Any) -> tuple[Any, list[Tensor]]:
    """The first argument of an optimizer with its iterators made into lists, and all tensors in it.

    What is neither parameter, pair nor group is left for torch to refuse.
    """
    if isinstance(params, Tensor | Mapping | str) or not isinstance(params, Iterable):
        return params, []
    entries, found = [], []
    for entry in params:
        if isinstance(entry, Mapping) and isinstance(entry.get("params"), Iterable):
            inside = entry["params"]
            if not isinstance(inside, Tensor | set):
                inside = list(inside)
                entry = {**entry, "params": inside}
            found += [inside] if isinstance(inside, Tensor) else inside
        else:
            found.append(entry)
        entries.append(entry)
    tensors = [f[1] if isinstance(f, tuple) and len(f) == 2 else f for f in found]
    return entries, [t for t in tensors if isinstance(t, Tensor)]
