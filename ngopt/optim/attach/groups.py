"""Parameter groups: names for all that is in them, options checked and the same where they must be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from ngopt.optim.attach import options
from ngopt.optim.attach.names import generated, unique


def checked_new_group(
    new: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    named: Mapping[str, Tensor],
    others: Collection[str] = (),
) -> tuple[dict[str, Any], str | None]:
    """A group that is to be added, with names, and with options as torch wants them.

    Args:
        new: ``{"params": ..., "lr": ..., ...}``; its parameters are in an order.
        groups: Those that there are.
        defaults: Options of groups that do not give them.
        named: The model's parameters by name.
        others: Names of options that an optimizer around this one has for itself.

    Returns:
        The group; and what to say of options that have no effect, or None.

    Raises:
        TypeError: A parameter that no step can be made for, or an option of the wrong type.
        ValueError: An option is out of range, or differs where all groups have one.
    """
    params = [new["params"]] if isinstance(new["params"], Tensor) else list(new["params"])
    own_names = {id(tensor): name for name, tensor in named.items()}
    start = sum(len(group["params"]) for group in groups)
    pairs = [
        entry if isinstance(entry, tuple) else (own_names.get(id(entry), generated(start + i)), entry)
        for i, entry in enumerate(params)
    ]
    shared = {option: groups[0][option] for option in options.SHARED if groups}
    group = options.checked_group({**defaults, **shared, **new, "params": pairs})
    group.setdefault("param_names", [])  # torch sets it where there is a parameter
    for name, param in pairs:
        options.check_parameter(name, param)
    for option, value in shared.items():
        if group[option] != value:
            raise ValueError(f"{option} must be the same in all groups: {value!r}, got {group[option]!r}.")
    return group, options.without_effect(group, others)


def shapes_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by name, in order; those that are lazy have none yet."""
    shapes: dict[str, tuple[int, ...]] = {}
    for group in groups:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if not is_lazy(param):
                shapes[unique(name, shapes)] = tuple(param.shape)
    return shapes
