"""Who keeps which state: owners that of their pieces, and every rank the counts of steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from ngopt.graph.sharding import local
from ngopt.optim.rule.direction import OF_SIDES, ParamState, init_state, root_mean_square
from ngopt.optim.saving.state import fit_state
from ngopt.optim.sharded.shards import among, as_dtensor, part_of
from ngopt.optim.sharded.spread import Spread

States = MutableMapping[Any, ParamState]  # by parameter
AVERAGES = ("momentum", "second_moment")  # shaped like the parameter, where it has no sides


def counted(steps: float = 0.0) -> ParamState:
    """What a rank keeps of a parameter that others step."""
    return {"step": torch.tensor(steps, dtype=torch.float32)}


def prepare(spread: Spread, state: States) -> tuple[dict[str, Tensor], list[str]]:
    """Give every owner the state that it needs, and all other ranks the count of steps. All ranks call it.

    Returns:
        Root mean squares of the initial weights by name, and names of the parameters whose averages are lost, and start
        anew: those of a state that came without them.
    """
    names = list(spread.params)
    weights = {name: local(param.detach()) for name, param in spread.params.items()}
    steps = {name: float(state.get(param, {}).get("step", 0.0)) for name, param in spread.params.items()}
    most = dict(zip(names, spread.by_name(steps, names, "MAX").tolist(), strict=True))
    sums = spread.by_name(spread.squares(weights), names)
    fresh, kept = {}, {}
    for name, piece in spread.to_owners(names, weights):
        param = spread.params[name]
        own, old = init_state(piece, spread.mine[name].plan, spread.config), dict(state.get(param, {}))
        if name in spread.in_parts:
            size = sums[names.index(name)].sqrt()
            count = math.prod(spread.held[name].shape)
            own["initial_rms"] = root_mean_square(size, count, own["initial_rms"].dtype)
            old = {key: _part(spread, name, key, x) for key, x in old.items()}
        fresh[name], kept[name] = own, fit_state({key: local(x) for key, x in old.items()}, own)
        if most[name] and not all(key in old for key in AVERAGES):
            kept[name] = own
    lost = {name: float(float(own["step"]) != most[name]) for name, own in kept.items()}
    gone = {name for name, count in zip(names, spread.by_name(lost, names).tolist(), strict=True) if count}
    for name, param in spread.params.items():
        found = (fresh if name in gone else kept).get(name)
        state[param] = counted(0.0 if name in gone else most[name]) if found is None else found
    speakers = {name: state[spread.params[name]]["initial_rms"] for name in kept if spread.speaks_for(name)}
    initial = spread.by_name(speakers, names)
    return dict(zip(names, initial, strict=True)), [name for name in names if name in gone]


def forms(spread: Spread) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of all state of each sharded parameter, wherever it is kept."""
    found = {}
    for name, param in spread.params.items():
        empty = torch.empty(param.shape, dtype=param.dtype, device="meta")
        found[name] = {key: tuple(x.shape) for key, x in init_state(empty, spread.plans[name], spread.config).items()}
    return found


def refuse_whole(spreads: Iterable[Spread]) -> None:
    """Raise NotImplementedError where all state is wanted in one piece and other ranks own some of it.

    ``StateDictOptions(full_state_dict=True)`` puts DTensors together and passes over what one rank owns, which would be
    lost in silence. It does not say that it is the caller, so that the callers are looked at.
    """
    if not any(plan.sides for spread in spreads for plan in spread.plans.values() if spread.ranks > 1):
        return
    frame = sys._getframe()
    while frame is not None:
        in_torch = frame.f_globals.get("__name__") == "torch.distributed.checkpoint.state_dict"
        if in_torch and getattr(frame.f_locals.get("info"), "full_state_dict", False):
            raise NotImplementedError(
                "StateDictOptions(full_state_dict=True) would lose the state of sharded parameters: each matrix has "
                "its state on the rank that owns it. Leave full_state_dict out, and save with "
                "torch.distributed.checkpoint: what dcp.save wrote loads onto any number of ranks, and "
                "torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes one file of it."
            )
        frame = frame.f_back


def portable(spread: Spread, name: str, own: ParamState) -> ParamState:
    """State with what is in parts as DTensors, so that `torch.distributed.checkpoint` can lay it out anew."""
    if name not in spread.in_parts or name not in spread.mine:
        return own
    if not spread.plans[name].sides:
        return {key: as_dtensor(x, spread.params[name]) if key in AVERAGES else x for key, x in own.items()}
    owners, groups = spread.owners(name), spread.plans[name].groups
    return {key: among(x, owners, (groups, *x.shape[1:])) if _is_stacked(key) else x for key, x in own.items()}


def _is_stacked(key: str) -> bool:
    """Whether the first axis of an entry is that of the groups, where the parameter has sides."""
    return key in AVERAGES or key.endswith(OF_SIDES)


def _part(spread: Spread, name: str, key: str, values: Tensor) -> Tensor:
    """This rank's part of an entry of a loaded state, be it whole or the part."""
    if not spread.plans[name].sides:
        return part_of(values, spread.params[name]) if key in AVERAGES else values
    values, groups, own = local(values), spread.plans[name].groups, spread.mine[name]
    if not _is_stacked(key) or not values.dim() or len(values) != groups:
        return values
    start = sum(piece.plan.matrix_shape[0] for piece in spread.pieces[name][: spread.pieces[name].index(own)])
    return values[start : start + own.plan.matrix_shape[0]].clone()
