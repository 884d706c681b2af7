"""One step of parameters that are spread over ranks.

    gradients   every box to the owner of its piece
    changes     `ngopt.optim.fast.inplace.changes_`, by each owner, of its pieces
    weights     every box of a change to all ranks that hold it, which apply it

Weights go to owners in steps in which a basis turns, or controls are computed, and in no other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ngopt.graph.sharding import is_sharded, local
from ngopt.optim.fast.inplace import changes_, step_factor
from ngopt.optim.fast.writing import Change, apply_
from ngopt.optim.rule.eigenbasis import is_turn
from ngopt.optim.rule.schedule import is_refresh
from ngopt.optim.sharded.look import Look
from ngopt.optim.sharded.spread import Spread
from ngopt.optim.sharded.state import States


@torch.no_grad()
def sharded_update_(
    look: Look,
    state: States,
    *,
    step: int,
    lr: Mapping[str, float],
    weight_decay: Mapping[str, float],
    total_steps: int | None,
    scheduled: bool,
) -> None:
    """One step, written into weights and state. All ranks call it.

    Args:
        look: At gradients that are finite.
        state: By parameter.
        step: Steps made so far.
        lr: By name.
        weight_decay: By name.
        total_steps: Length of the run, or None.
        scheduled: As in `ngopt.optim.update.update`.
    """
    spread, present = look.spread, look.present
    rule, graph = spread.partition.rule, spread.partition.graph
    grads = dict(spread.to_owners(present, look.shards)) | look.plain
    states = {name: state[spread.params[name]] for name in present if name in spread.mine}
    states |= {name: state[spread.plain[name]] for name in look.plain}
    refresh = graph is not None and not rule.neutral and is_refresh(step, rule.config)
    weights = _weights_here(spread, {n: int(state[spread.params[n]]["step"]) + 1 for n in present}, refresh)
    factor = step_factor(rule, step, total_steps, scheduled)
    rates, cohorts = {name: own * factor for name, own in lr.items()}, spread.partition.cohorts
    done: dict[str, Tensor] = {}
    args = (rule, graph, weights, grads, states, step, total_steps, rates, weight_decay, cohorts, look)
    for change in changes_(*args):
        if change.names[0] in look.apart:
            apply_(change, spread.plain)
        else:
            changes = zip(change.names, change.changes, strict=True)
            done.update({name: x.to(spread.dtypes[name]) for name, x in changes})
    del grads, weights
    changes = dict(spread.to_holders(present, done))
    names = list(changes)
    mine = {name: local(spread.params[name].detach()) for name in names}
    apply_(Change(names, list(changes.values()), [rates[n] for n in names], [weight_decay[n] for n in names]), mine)
    for name in present:
        if name not in spread.mine:
            state[spread.params[name]]["step"] += 1.0


def _weights_here(spread: Spread, counts: Mapping[str, int], refresh: bool) -> dict[str, Tensor]:
    """The weights that `changes_` asks for in this step: of matrices that turn a basis, or of all.

    Args:
        spread: The partition.
        counts: Number of this step, from 1, of each parameter with a gradient.
        refresh: Whether controls are computed.
    """
    wanted = [name for name in spread.params if refresh or (name in counts and _turns(spread, name, counts[name]))]
    here = dict(spread.to_owners(wanted, {name: local(spread.params[name].detach()) for name in wanted}))
    if refresh:
        here |= {name: local(x.detach()) for name, x in spread.partition.readable.items() if name not in spread.params}
    return here | {name: x for name, x in spread.plain.items() if not is_sharded(x)}


def _turns(spread: Spread, name: str, count: int) -> bool:
    every = spread.config.bases_every
    return any(count == 1 or is_turn(count, side, every) for side in spread.plans[name].sides)
