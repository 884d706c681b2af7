"""Check a state dict in full before anything is changed: what is loaded is right, or refused by name.

Nothing in a file is taken at its word: kinds, numbers, shapes and values are checked, of torch's two entries as of
ngopt's own. An optimizer that refuses a state is as it was before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ngopt.errors import CheckpointError, GraphMismatchError
from ngopt.graph.sharding import is_sharded, local
from ngopt.optim.attach.match import listing
from ngopt.optim.attach.options import SHARED, checked_group
from ngopt.optim.rule.plan import AXES
from ngopt.optim.saving.state import ENTRY, ExtraState, same_parameters, unpack_extra_state, unpack_text

OPTIONS = ("lr", "weight_decay", "maximize", "total_steps", "schedule", "step")
LARGEST_STEP = 2**53  # counts are exact up to here
_NOT_NEGATIVE = ("step", "second_moment", "unit", "guard", "initial_rms")


def check_state_dict(
    packed: Any,
    shapes: Mapping[str, tuple[int, ...]],
    params: Sequence[Sequence[Tensor]],
) -> ExtraState | None:
    """Check all of a state dict.

    Args:
        packed: The state dict.
        shapes: Shapes of this optimizer's parameters by name, in the order of its groups.
        params: This optimizer's parameters, group by group.

    Returns:
        ngopt's own entry; without shapes and layout where only torch's two entries were kept, as in
        torch.distributed.checkpoint; None where there is nothing of it.

    Raises:
        CheckpointError: The state is corrupt, foreign, or of another version; the message names the entry.
        GraphMismatchError: The state belongs to another model.
    """
    groups = _check_form(packed)
    _check_ours(packed, groups)
    extra = unpack_extra_state(packed[ENTRY]) if ENTRY in packed else None
    if extra is not None and (difference := same_parameters(extra.shapes, shapes)):
        raise GraphMismatchError(f"The state belongs to another model: {difference}. Load it into the same model.")
    numbers = _check_numbers(groups, [len(own) for own in params])
    if extra is not None:
        _check_names(groups)
    for index, group in enumerate(groups):
        _check_options(f"param_groups[{index}]", group)
    for option in SHARED:
        if any(group[option] != groups[0][option] for group in groups):
            raise CheckpointError(f"param_groups: {option} must be the same in all groups.")
    by_number = dict(zip(numbers, (param for own in params for param in own), strict=True))
    _check_state(packed["state"], by_number, extra)
    carried = next((unpack_text(group[ENTRY]) for group in groups if ENTRY in group), None)
    return extra or carried


def _check_form(packed: Any) -> list[dict[str, Any]]:
    """The groups, if all containers are what they must be."""
    if not isinstance(packed, Mapping) or not {"state", "param_groups"} <= packed.keys():
        raise CheckpointError("This is not the state_dict() of an optimizer: it has no 'state' and 'param_groups'.")
    groups = packed["param_groups"]
    if not isinstance(packed["state"], Mapping):
        raise CheckpointError(f"state must be a dict, not {type(packed['state']).__name__}.")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise CheckpointError("param_groups must be a list of dicts.")
    for index, group in enumerate(groups):
        params = group.get("params")
        if not isinstance(params, list) or not all(map(_is_key, params)):
            raise CheckpointError(f"param_groups[{index}]['params'] must be a list of numbers or names.")
    return groups


def _check_ours(packed: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    """Refuse the state of another optimizer, and say how it was recognised."""
    if ENTRY in packed or all(set(SHARED) <= group.keys() for group in groups):
        return
    foreign = sorted({str(key) for group in groups for key in group} - {"params", "param_names", *OPTIONS})
    entries = sorted({str(key) for own in packed["state"].values() if isinstance(own, Mapping) for key in own})
    raise CheckpointError(
        f"The state belongs to another optimizer (group options {listing(foreign) or 'none'}; state "
        f"{listing(entries) or 'none'}) and cannot be used by NGOptimizer. Leave it out: the new optimizer starts "
        "from the weights as they are."
    )


def _check_numbers(groups: list[dict[str, Any]], sizes: Sequence[int]) -> list[int | str]:
    """The numbers of all parameters, in order."""
    if len(groups) != len(sizes):
        raise CheckpointError(
            f"The state has a different number of parameter groups: {len(groups)}, and this optimizer {len(sizes)}."
        )
    for index, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        if len(group["params"]) != size:
            raise CheckpointError(f"param_groups[{index}] has {len(group['params'])} parameters, and {size} here.")
    numbers = [number for group in groups for number in group["params"]]
    if len(set(numbers)) != len(numbers):
        raise CheckpointError("param_groups: a parameter is listed twice.")
    return numbers


def _check_names(groups: list[dict[str, Any]]) -> None:
    for index, group in enumerate(groups):
        names, size = group.get("param_names"), len(group["params"])
        if not isinstance(names, list) or len(names) != size or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"param_groups[{index}]['param_names'] must be a list of {size} names.")


def _check_options(where: str, group: dict[str, Any]) -> None:
    if missing := [option for option in OPTIONS if option not in group]:
        raise CheckpointError(f"{where} has no {listing(missing)}.")
    try:
        checked_group(group)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    if not isinstance(group["maximize"], bool):
        raise CheckpointError(f"{where}['maximize']={group['maximize']!r} must be True or False.")
    step = group["step"]
    if not _is_whole(step) or not 0 <= step <= LARGEST_STEP:
        raise CheckpointError(f"{where}['step']={step!r} must be a whole number, not negative.")
    for key, value in group.items():
        if isinstance(value, float) and not math.isfinite(value) and key not in OPTIONS:
            raise CheckpointError(f"{where}[{key!r}]={value!r} is not finite.")


def _check_state(state: Mapping[Any, Any], params: Mapping[int | str, Tensor], extra: ExtraState | None) -> None:
    """State of every parameter: known, complete, of the shapes that were written, finite."""
    if strangers := [key for key in state if not _is_key(key) or key not in params]:
        raise CheckpointError(f"state holds entries for unknown parameters: {listing(map(repr, strangers))}.")
    for place, (number, param) in enumerate(params.items()):
        entries = state.get(number, {})
        where = f"state[{number!r}]"
        if not isinstance(entries, Mapping):
            raise CheckpointError(f"{where} must be a dict of tensors, not {type(entries).__name__}.")
        for key, value in entries.items():
            _check_entry(f"{where}[{key!r}]", key, value)
        if is_sharded(param) and entries.keys() == {"step"}:
            continue  # another rank has the rest
        if extra is not None:
            _check_layout(
                where, {key: tuple(value.shape) for key, value in entries.items()}, extra.layout.get(place, {})
            )
        elif "momentum" in entries and not is_lazy(param):
            _check_fit(where, {key: tuple(value.shape) for key, value in entries.items()}, tuple(param.shape))


def _check_fit(where: str, found: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """Whether averages and bases are of one parameter of that shape, in any of the forms that it can have.

    Averages of a matrix are padded along its sides to whole blocks, by less than one entry for each of them.
    """
    padded, sides = found["momentum"], [(axis, found.get(f"{name}_basis")) for axis, name in enumerate(AXES, 1)]
    bases = [(axis, basis) for axis, basis in sides if basis is not None]
    fits = found.get("second_moment") == padded
    if not bases:
        fits = fits and padded == shape
    else:
        fits = (
            fits
            and len(padded) == 4
            and all(
                len(basis) == 4 and (basis[0], basis[1] * basis[2], basis[3]) == (padded[0], padded[axis], basis[2])
                for axis, basis in bases
            )
        )
        blocks = {axis: basis[1] for axis, basis in bases} if fits else {}
        lengths = [range(size - blocks.get(axis, 1) + 1, size + 1) for axis, size in enumerate(padded)]
        fits = fits and any(math.prod(sizes) == math.prod(shape) for sizes in itertools.product(*lengths))
    if not fits:
        raise CheckpointError(
            f"{where}['momentum'] has shape {padded}, with {listing(found)} beside it; that is not the state of a "
            f"parameter of shape {shape}."
        )


def _check_layout(where: str, found: Mapping[str, tuple], written: Mapping[str, tuple]) -> None:
    for key in sorted(written.keys() | found.keys()):
        if key not in found:
            raise CheckpointError(f"{where} has lost its entry {key!r}.")
        if key not in written:
            raise CheckpointError(f"{where} has an entry {key!r} that was not there when it was saved.")
        if found[key] != written[key]:
            raise CheckpointError(f"{where}[{key!r}] has shape {found[key]}; {written[key]} was saved.")


def _check_entry(where: str, key: Any, value: Any) -> None:
    if not isinstance(key, str) or not isinstance(value, Tensor):
        raise CheckpointError(f"{where} must be a tensor with a name, not {type(value).__name__}.")
    value = local(value)
    if value.layout != torch.strided or value.is_complex() or value.is_meta:
        raise CheckpointError(f"{where} must be a dense tensor of real numbers.")
    if value.is_floating_point() and not is_finite(value):
        raise CheckpointError(f"{where} holds NaN or infinity.")
    diagonal = value.diagonal(dim1=-2, dim2=-1) if key.endswith("_factor") and value.dim() > 1 else None
    positive = value if any(word in key for word in _NOT_NEGATIVE) else diagonal
    if positive is not None and bool((positive < 0).any()):
        raise CheckpointError(f"{where} holds negative numbers.")
    if key.endswith("_order") and not bool((value.sort(-1).values == torch.arange(value.shape[-1])).all()):
        raise CheckpointError(f"{where} is not an order of neurons.")
    if key == "step" and (value.numel() != 1 or not float(value).is_integer()):
        raise CheckpointError(f"{where} must be one whole number.")


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity, in one pass and without a copy of its size."""
    if value.numel() == 0:
        return True
    if value.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        value = value.float()
    low, high = torch.aminmax(value.detach())
    return math.isfinite(low.item()) and math.isfinite(high.item())


def _is_key(value: Any) -> bool:
    """A parameter's number, or its name: torch.distributed.checkpoint has names."""
    return _is_whole(value) or isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
