"""Parameters that were exchanged in ``param_groups`` after the optimizer was built.

Densification of point clouds, float32 masters of half-precision weights, and frameworks that move a model put other
tensors where the optimizer's own were. What is stepped is always what the groups hold now: names and state follow.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ngopt.optim.attach.names import generated


@dataclass(frozen=True)
class Member:
    """A parameter as it was when it was last looked at."""

    param: Tensor
    name: str
    shape: torch.Size | None  # None while it is lazy
    dtype: torch.dtype
    device: torch.device

    def is_still(self, param: Tensor) -> bool:
        """Whether this is the same tensor, unchanged in form."""
        return param is self.param and (_shape_of(param), param.dtype, param.device) == (
            self.shape,
            self.dtype,
            self.device,
        )


Members = list[list[Member]]  # by group


def members_of(groups: Sequence[Mapping[str, Any]]) -> Members:
    """What the groups hold now."""
    return [
        [
            Member(param, name, _shape_of(param), param.dtype, param.device)
            for param, name in zip(group["params"], group["param_names"], strict=True)
        ]
        for group in groups
    ]


def _shape_of(param: Tensor) -> torch.Size | None:
    return None if is_lazy(param) else param.shape


def unchanged(members: Members, groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the groups still hold what they held, under the same names."""
    return len(members) == len(groups) and all(
        len(group["params"]) == len(known)
        and all(m.is_still(p) for m, p in zip(known, group["params"], strict=True))
        and [m.name for m in known] == group.get("param_names")  # ZeroRedundancyOptimizer copies another rank's
        for known, group in zip(members, groups, strict=True)
    )


def follow(
    members: Members,
    groups: Sequence[dict[str, Any]],
    named: Mapping[str, Tensor],
    state: MutableMapping[Tensor, Any],
) -> dict[str, Tensor]:
    """Give every parameter of the groups a name, and the state of the one whose place it took.

    A parameter that was there before keeps its name. One in another's place, in a group of the same length, takes over
    name and state. All others get the model's name for them, or a new one. State of what is gone is dropped.

    Args:
        members: What the groups held before.
        groups: The groups; their ``"param_names"`` are written.
        named: The model's parameters by name.
        state: State by parameter; changed in place.

    Returns:
        ``named``, with what took the place of a model's own parameter.
    """
    before = {id(m.param): m for known in members for m in known}
    now = {id(param) for group in groups for param in group["params"]}
    own_names = {id(tensor): name for name, tensor in named.items()}
    taken = {before[i].name for i in now if i in before}
    successors: dict[int, Tensor] = {}
    count = sum(len(known) for known in members)
    for index, group in enumerate(groups):
        known = members[index] if index < len(members) else []
        names = []
        for place, param in enumerate(group["params"]):
            there = known[place] if len(known) == len(group["params"]) else None
            if id(param) in before:
                name = before[id(param)].name
            elif there is not None and id(there.param) not in now:
                name = there.name
                successors[id(there.param)] = param
                if there.param in state and not state.get(param):
                    state[param] = state[there.param]
            else:
                name = own_names.get(id(param), "")
                while not name or name in taken:
                    name, count = generated(count), count + 1
            taken.add(name)
            names.append(name)
        group["param_names"] = names
    for known in before.values():
        if id(known.param) not in now:
            state.pop(known.param, None)
    return {name: successors.get(id(tensor), tensor) for name, tensor in named.items()}
