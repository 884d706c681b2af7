"""Which modules do these parameters belong to?

Most programs build an optimizer from ``model.parameters()`` alone. The modules are found among those that are alive, by
the identity of their parameters.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def owners(tensors: Sequence[Tensor]) -> list[nn.Module]:
    """The modules that hold the tensors as parameters, as few and as small as possible.

    One where one holds all of them: the smallest, but rather one that can be called (a `torch.nn.ModuleList` cannot).
    Several, such as an encoder and a decoder, where none does. Tensors that are in no module, such as a coefficient
    that is learned beside a network, are left out; empty where all are.
    """
    wanted = {id(tensor) for tensor in tensors}
    own: dict[int, set[int]] = {}  # module -> wanted tensors that it holds itself
    parents: dict[int, list[nn.Module]] = {}
    candidates: dict[int, nn.Module] = {}
    for module in gc.get_objects():
        if not issubclass(type(module), nn.Module) or "_modules" not in module.__dict__:
            continue
        if mine := wanted.intersection(id(p) for p in module._parameters.values()):
            own[id(module)], candidates[id(module)] = mine, module
        for child in module._modules.values():
            parents.setdefault(id(child), []).append(module)
    wanted = set[int]().union(*own.values())
    above = list(candidates.values())
    while above:
        for parent in parents.get(id(above.pop()), []):
            if id(parent) not in candidates:
                candidates[id(parent)] = parent
                above.append(parent)
    inside = {key: [id(m) for m in module.modules()] for key, module in candidates.items()}
    held = {key: set[int]().union(*(own.get(m, set()) for m in members)) for key, members in inside.items()}
    found: list[nn.Module] = []
    while wanted:
        key = max(candidates, key=lambda k: (len(held[k] & wanted), can_be_called(candidates[k]), -len(inside[k])))
        found.append(candidates[key])
        wanted -= held[key]
    return found


def can_be_called(module: nn.Module) -> bool:
    """Whether a module has a forward pass."""
    return "forward" in module.__dict__ or type(module).forward is not nn.Module.forward


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
