"""The update in place: what `ngopt.optim.update.update` computes, on stacks of equal parameters and in few kernels."""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.fast.stack import Stack, counts_of, join, stacks_of
from ngopt.optim.rule.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.rule.controls import CONTROLS, EXPONENT, FLOOR, LOG_GAIN
from ngopt.optim.rule.direction import ParamState, accumulate, direction, next_unit, rms, root_mean_square
from ngopt.optim.rule.guard import guard_of
from ngopt.optim.rule.plan import plan_all
from ngopt.optim.rule.schedule import Schedule, is_refresh
from ngopt.optim.rule.update_rule import UpdateRule


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
    gradients = {name: g.to(state[name]["momentum"].dtype) for name, g in grads.items() if g is not None}
    if not gradients:
        return
    plans = plan_all(graph, gradients, config)
    stacks = stacks_of(plans, gradients, state, lr, weight_decay)
    if any(stack.count == 1 for stack in stacks):
        guard = guard_of(graph, weights, state, config)
        for stack in stacks:
            if stack.count == 1:
                join(stack.states, "guard").copy_(guard)
    for alike in _by_place(stacks):
        _accumulate_(alike, gradients, weights, config)
    if graph is not None and not neutral and is_refresh(step, config):
        seen: dict[str, Tensor] = {}
        for stack in stacks:
            averages = [own["momentum"] for own in stack.states]
            seen.update(zip(stack.names, stack.parts(stack.gradient, averages), strict=True))
        for name, said in rule.controls(graph, plans, weights, seen, state, step, total_steps).items():
            state[name]["controls"].copy_(said)

    factor = config.step_size
    if scheduled:
        schedule = Schedule(config, total_steps)
        factor *= schedule.given(step) * float(rule.schedule(step, total_steps))
    for stack in stacks:
        _step_(stack, weights, stack.lr * factor, neutral, config)


def _by_place(stacks: Sequence[Stack]) -> list[list[Stack]]:
    """Stacks of one number type and device together."""
    places: dict[tuple, list[Stack]] = {}
    for stack in stacks:
        places.setdefault((stack.gradient.dtype, stack.gradient.device), []).append(stack)
    return list(places.values())


def _accumulate_(
    stacks: Sequence[Stack], gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], config: UpdateConfig
) -> None:
    """Averages of some stacks, all of one number type and device; units are found for all of them at once."""
    states = [state for stack in stacks for state in stack.states]
    each = [gradients[name] for stack in stacks for name in stack.names]
    dtype = each[0].dtype
    norms = torch.stack(torch._foreach_norm(each, 2, dtype=torch.float64))
    sizes = root_mean_square(norms, counts_of(tuple(x.numel() for x in each), norms.dtype, norms.device), dtype)
    units = join(states, "unit")
    divisors, new_units, carries = next_unit(sizes, units, config)
    units.copy_(new_units)
    torch._foreach_add_([state["step"] for state in states], 1.0)
    counts = [len(stack.names) for stack in stacks]
    for stack, divisor, carry in zip(stacks, divisors.split(counts), carries.split(counts), strict=True):
        stack.gradient, new = accumulate(
            stack.plan.sides,
            lambda stack=stack: stack.view(weights).to(dtype),
            stack.gradient / stack.spread(divisor),
            stack.spread(carry),
            stack.state,
            stack.count,
            config,
        )
        for key, value in new.items():
            stack.state[key].copy_(value)


def _step_(stack: Stack, weights: Mapping[str, Tensor], rate: float, neutral: bool, config: UpdateConfig) -> None:
    """Write the step of a stack into the weights."""
    change = direction(stack.plan.sides, stack.gradient, stack.state, stack.count, config)
    size = join(stack.states, "guard") * stack.plan.scale(config, join(stack.states, "initial_rms"))
    each = [weights[name] for name in stack.names]
    if not neutral and "controls" in stack.states[0]:
        said = join(stack.states, "controls").view(-1, CONTROLS)
        norms = torch.stack([rms(part) for part in stack.parts(change, each)])
        size = size * torch.exp(said[:, LOG_GAIN]) * norms.clamp_min(FLOOR) ** -said[:, EXPONENT]
    change.mul_(stack.spread(size))
    changes = [
        plan.unview(part, tuple(weight.shape)).to(weight.dtype)
        for plan, weight, part in zip(stack.plans, each, stack.parts(change, each), strict=True)
    ]
    if stack.weight_decay:
        torch._foreach_mul_(each, 1.0 - rate * stack.weight_decay)
    torch._foreach_add_(each, changes, alpha=-rate)
