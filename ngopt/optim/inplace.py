"""The update in place: what `ngopt.optim.update.update` computes, in few passes over memory and few kernels."""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ngopt.encoder.features import row_and_column_sums
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.gates import Gates
from ngopt.optim.item import Item
from ngopt.optim.plan import in_state_dtype, option, plan_all
from ngopt.optim.rule import ParamState, UpdateRule
from ngopt.optim.schedule import horizon_factor, is_refresh, warmup_and_decay
from ngopt.optim.step_large import step_large_
from ngopt.optim.step_small import step_packed_

SMALL = 2**16  # parameters of at most so many entries are packed


@torch.no_grad()
def update_(
    rule: UpdateRule,
    graph: NeuralGraph | None,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    state: Mapping[str, ParamState],
    *,
    step: int,
    lr: float | Mapping[str, float] = DEFAULT_LR,
    weight_decay: float | Mapping[str, float] = 0.0,
    total_steps: int | None = None,
    scheduled: bool = True,
) -> None:
    """One step, written into ``weights`` and ``state``. Arguments as in `ngopt.optim.update.update`."""
    config, neutral = rule.config, rule.neutral
    gradients = in_state_dtype(grads, state)
    plans = plan_all(graph, gradients, config)
    factor = 1.0
    if scheduled:
        factor = warmup_and_decay(step, total_steps, config.warmup_steps)
        factor *= horizon_factor(total_steps, config.horizon_power) * float(rule.schedule(step, total_steps))
    items = []
    for name, plan in plans.items():
        rate = option(lr, name) * factor
        gates = None if neutral else Gates.cached(state[name])
        decay = 1.0 - rate * option(weight_decay, name)
        items.append(Item(plan, weights[name], gradients[name], state[name], rate, decay, gates))
    if not items:
        return
    accumulate_(items, config)
    if graph is not None and not neutral and is_refresh(step, config):
        for name, new in rule.gates(graph, plans, weights, gradients, state, step, total_steps).items():
            for key, value in new.entries(like=state[name]["momentum"]).items():
                state[name][key].copy_(value)  # where `Item.gates` looks

    packs: dict[tuple, list[Item]] = {}
    for item in items:
        if item.weight.numel() <= SMALL:
            key = (item.plan.orthogonal, item.gradient.dtype, item.gradient.device)
            packs.setdefault(key, []).append(item)
        else:
            step_large_(item, config)
    for small in packs.values():
        step_packed_(small, config)


def accumulate_(items: Sequence[Item], config: UpdateConfig) -> None:
    """`ngopt.optim.basis.accumulate` of all parameters."""
    torch._foreach_add_([item.state["step"] for item in items], 1.0)
    gradients = [item.gradient for item in items]
    torch._foreach_lerp_([item.state["momentum"] for item in items], gradients, 1.0 - config.momentum)
    others = [item for item in items if not item.plan.orthogonal]
    if others:
        squares, gradients = [item.state["second_moment"] for item in others], [item.gradient for item in others]
        torch._foreach_mul_(squares, config.second_moment)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - config.second_moment)
    old, new, counts = [], [], []
    for item in items:
        if item.plan.orthogonal:
            square, (_, row, col, tap) = item.plan.to_matrix(item.gradient).square(), item.plan.matrix_shape
            old += [item.state["row_square"], item.state["col_square"]]
            new += row_and_column_sums(square)
            counts += [float(col * tap), float(row * tap)]
    if new:
        torch._foreach_div_(new, counts)
        torch._foreach_lerp_(old, new, 1.0 - config.second_moment)
