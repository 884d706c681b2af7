"""The update in place: what `ngopt.optim.update.update` computes, on stacks of equal parameters and in few kernels."""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.fast.stack import Cohort, Cohorts, join
from ngopt.optim.rule.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.rule.controls import EXPONENT, FLOOR, LOG_GAIN
from ngopt.optim.rule.direction import (
    EPS,
    ParamState,
    first_bases,
    follow,
    into_bases,
    next_unit,
    out_of_bases,
    rms,
    root_mean_square,
)
from ngopt.optim.rule.eigenbasis import turn
from ngopt.optim.rule.guard import guard_of
from ngopt.optim.rule.plan import ParamPlan, option
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
    cohorts: Cohorts | None = None,
) -> None:
    """One step, written into ``weights`` and ``state``. Arguments as in `ngopt.optim.update.update`.

    Whoever steps the same parameters many times keeps ``cohorts`` and gives it again.
    """
    config, neutral = rule.config, rule.neutral
    gradients = {name: g.to(state[name]["momentum"].dtype) for name, g in grads.items() if g is not None}
    if not gradients:
        return
    found, plans = (cohorts or Cohorts()).of(graph, gradients, state, config)
    if any(cohort.count == 1 for cohort in found):
        guard = guard_of(graph, weights, state, config)
        for cohort in found:
            if cohort.count == 1:
                join(cohort.states, "guard").copy_(guard)
    turned: Iterable[Tensor] = (_accumulate_(cohort, gradients, weights, config) for cohort in found)  # one by one
    if graph is not None and not neutral and is_refresh(step, config):
        turned = list(turned)
        seen = {name: x for cohort, own in zip(found, turned, strict=True) for name, x in _parts(cohort, own).items()}
        for name, said in rule.controls(graph, plans, weights, seen, state, step, total_steps).items():
            state[name]["controls"].copy_(said)

    factor = config.step_size
    if scheduled:
        schedule = Schedule(config, total_steps)
        factor *= schedule.given(step) * float(rule.schedule(step, total_steps))
    for cohort, own in zip(found, turned, strict=True):
        _step_(cohort, plans, own, weights, factor, lr, weight_decay, neutral, config)
        cohort.count += 1


def _accumulate_(
    cohort: Cohort, gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor], config: UpdateConfig
) -> Tensor:  # -> [all entries]
    """The averages of a cohort after one more gradient; returns the gradients in units, in the eigenbases."""
    each, count = [gradients[name] for name in cohort.names], cohort.count
    dtype = each[0].dtype
    norms = torch.stack(torch._foreach_norm(each, 2, dtype=torch.float64))
    sizes = root_mean_square(norms, cohort.entries, dtype)
    divisors, units, carries = next_unit(sizes, cohort.unit, count, config)
    cohort.unit.copy_(units)
    torch._foreach_add_([state["step"] for state in cohort.states], 1.0)
    each = dict(zip(cohort.names, torch._foreach_div(each, list(divisors.unbind())), strict=True))
    if isinstance(carries, Tensor):
        singly = list(carries.unbind())
        torch._foreach_mul_([state["momentum"] for state in cohort.states], singly)
        torch._foreach_mul_([state["second_moment"] for state in cohort.states], [x * x for x in singly])
    turned, at = [], 0
    for stack in cohort.stacks:
        carry = 1.0
        if isinstance(carries, Tensor):
            carry = stack.spread(carries[at : at + len(stack.names)])
        at += len(stack.names)
        sides, gradient = stack.plan.sides, stack.view(each)

        def weight(stack=stack) -> Tensor:
            return stack.view(weights).to(dtype)

        if count == 1:
            for key, value in first_bases(sides, weight, gradient, stack.state, config).items():
                stack.state[key].copy_(value)
        gradient = into_bases(sides, gradient, stack.state)
        for side in sides:
            new, by = follow(side, weight, gradient, carry, stack.state, count, config)
            for key, value in new.items():
                stack.state[key].copy_(value)
            if by is not None:
                momentum = cohort.momentum[stack.place].view(stack.shape)
                gradient = turn(gradient, side, by)
                momentum.copy_(turn(momentum, side, by))
        turned.append(gradient.reshape(-1))
    turned += [each[name].reshape(-1) for name in cohort.names[cohort.first_vector :]]
    gradient = torch.cat(turned) if len(turned) > 1 else turned[0]
    cohort.momentum.lerp_(gradient, 1.0 - config.momentum)
    decay = config.second_moment
    cohort.second_moment.mul_(decay).addcmul_(gradient, gradient, value=1.0 - decay)
    return gradient


def _step_(
    cohort: Cohort,
    plans: Mapping[str, ParamPlan],
    gradient: Tensor,  # [all entries]
    weights: Mapping[str, Tensor],
    factor: float,
    lr: float | Mapping[str, float],
    weight_decay: float | Mapping[str, float],
    neutral: bool,
    config: UpdateConfig,
) -> None:
    """Write the step of a cohort into the weights. Uses up the gradient."""
    count, decay, split = cohort.count, config.momentum, cohort.matrices
    direction = gradient
    torch.lerp(cohort.momentum[:split], gradient[:split], 1.0 - decay, out=direction[:split])
    direction[:split].div_(1.0 - decay ** (count + 1))
    torch.div(cohort.momentum[split:], 1.0 - decay**count, out=direction[split:])
    direction.div_(cohort.second_moment.div(1.0 - config.second_moment**count).add_(EPS**2).sqrt_())
    each = [weights[name] for name in cohort.names]
    parts = _parts(cohort, direction, back=True)
    changes = [parts[name] for name in cohort.names]
    size = _scales(cohort, plans, config)
    if not neutral and any("controls" in state for state in cohort.states):
        none = size.new_zeros(2)
        said = torch.stack([state.get("controls", none) for state in cohort.states])
        norms = torch.stack([rms(part) for part in changes])
        size = size * torch.exp(said[:, LOG_GAIN]) * norms.clamp_min(FLOOR) ** -said[:, EXPONENT]
    rates = [-option(lr, name) * factor for name in cohort.names]
    decays = [option(weight_decay, name) for name in cohort.names]
    torch._foreach_mul_(changes, list(size.unbind()))
    changes = [
        plans[name].unview(part, tuple(weight.shape)).to(weight.dtype)
        for name, weight, part in zip(cohort.names, each, changes, strict=True)
    ]
    if any(decays):
        torch._foreach_mul_(each, [1.0 + rate * own for rate, own in zip(rates, decays, strict=True)])
    if len(set(rates)) > 1:
        torch._foreach_mul_(changes, rates)
        torch._foreach_add_(each, changes)
    else:
        torch._foreach_add_(each, changes, alpha=rates[0])


def _scales(cohort: Cohort, plans: Mapping[str, ParamPlan], config: UpdateConfig) -> Tensor:  # [tensor]
    """Guard times scale of each parameter; neither changes after the first step."""
    if cohort.scale is None:
        cohort.scale = torch.stack(
            [
                own["guard"] * plans[name].scale(config, own["initial_rms"])
                for name, own in zip(cohort.names, cohort.states, strict=True)
            ]
        )
    return cohort.scale


def _parts(cohort: Cohort, joined: Tensor, *, back: bool = False) -> dict[str, Tensor]:
    """Parts of what is joined, by parameter: in the eigenbases, or ``back`` out of them; in the matrix view if any."""
    parts: dict[str, Tensor] = {}
    for stack in cohort.stacks:
        own = joined[stack.place].view(stack.shape)
        own = out_of_bases(stack.plan.sides, own, stack.state) if back else own
        parts |= zip(stack.names, own.split(stack.plan.matrix_shape[0]), strict=True)
    rest = cohort.states[cohort.first_vector :]
    vectors = joined[cohort.matrices :].split([state["momentum"].numel() for state in rest]) if rest else ()
    for name, state, part in zip(cohort.names[cohort.first_vector :], rest, vectors, strict=True):
        parts[name] = part.view(state["momentum"].shape)
    return parts
