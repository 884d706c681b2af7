"""The update in place: what `ngopt.optim.update.update` computes, on stacks of equal parameters and in few kernels.

`changes_` brings the state one step further and says how the weights change, and `apply_` changes them: where weights
are sharded, not on the same rank.
"""

# pyright: reportPrivateImportUsage=false
# (torch's own optimizers are built on torch._foreach_*, and there is no public name for it)

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.fast.stack import Cohort, Cohorts, join
from ngopt.optim.fast.writing import Change, apply_, write_
from ngopt.optim.rule.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.rule.controls import CONTROLS, EXPONENT, FLOOR, LOG_GAIN
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
from ngopt.optim.rule.inputs import input_factor
from ngopt.optim.rule.plan import ParamPlan, option
from ngopt.optim.rule.scale import step_scale
from ngopt.optim.rule.schedule import Schedule, is_refresh, share_left
from ngopt.optim.rule.team import ALONE, Alone
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
    gate: Tensor | None = None,  # bool []
) -> None:
    """One step, written into ``weights`` and ``state``. Arguments as in `ngopt.optim.update.update`.

    Whoever steps the same parameters many times keeps ``cohorts`` and gives it again. With a ``gate`` these must be
    `Cohorts.ripe`; where it is closed, nothing changes but ``step`` of each state, see `Cohorts.take_back`.
    """
    given = {name: grad for name, grad in grads.items() if grad is not None}
    factor = step_factor(rule, step, total_steps, scheduled)
    rates = {name: option(lr, name) * factor for name in given}
    decays = {name: option(weight_decay, name) for name in given}
    known = cohorts or Cohorts()
    for change in changes_(rule, graph, weights, given, state, step, total_steps, rates, decays, known, gate=gate):
        apply_(change, weights, gate)
        del change  # before the next is made


def step_factor(rule: UpdateRule, step: int, total_steps: int | None, scheduled: bool) -> float:
    """What ``lr`` is multiplied by."""
    if not scheduled:
        return rule.config.step_size
    given = Schedule(rule.config, total_steps).given(step)
    return rule.config.step_size * (given * float(rule.schedule(step, total_steps)))


@torch.no_grad()
def changes_(
    rule: UpdateRule,
    graph: NeuralGraph | None,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: Mapping[str, ParamState],
    step: int,
    total_steps: int | None,
    rates: Mapping[str, float],
    decays: Mapping[str, float],
    cohorts: Cohorts,
    team: Alone = ALONE,
    gate: Tensor | None = None,  # bool []
) -> Iterator[Change]:
    """Bring the state one step further; how the weights change, cohort by cohort.

    Args:
        rule: The meta-parameters.
        graph: The neural graph, or None.
        weights: By name. Asked for where a basis turns or controls are computed.
        grads: By name.
        state: By name; written.
        step: Steps made so far.
        total_steps: The horizon, or None.
        rates: ``lr`` times `step_factor`, by name.
        decays: Weight decay, by name.
        cohorts: Kept from step to step.
        team: Who has the rest of the network.
        gate: Whether to write. Where it is closed, changes are zero.
    """
    config, neutral = rule.config, rule.neutral
    gradients = {name: g.to(state[name]["momentum"].dtype) for name, g in grads.items()}
    found, plans = cohorts.of(graph, gradients, state, config, team)
    if any(cohort.count == 1 for cohort in found):
        guard = team.guard(graph, weights, state, config)
        for cohort in found:
            if cohort.count == 1:
                own = join(cohort.states, "guard")
                factors = torch.tensor([input_factor(graph, name) for name in cohort.names], dtype=own.dtype)
                own.copy_(guard * factors.to(own.device, non_blocking=True))
    # One by one, and without a name for what is done with: a step takes memory for one cohort at a time.
    turned: Iterable[Tensor] = map(lambda cohort: _accumulate_(cohort, gradients, weights, config, team, gate), found)
    if graph is not None and not neutral and is_refresh(step, config):
        turned = list(turned)
        seen = {name: x for cohort, own in zip(found, turned, strict=True) for name, x in _parts(cohort, own).items()}
        for name, said in rule.controls(graph, plans, weights, seen, state, step, total_steps, team).items():
            write_(state[name]["controls"], said, gate)
    directions: Iterable[Tensor] = map(lambda cohort, own: _direct_(cohort, own, config, gate), found, turned)
    lengths = None
    if not neutral:
        directions = list(directions) if team.pieces else directions
        lengths = team.lengths(lambda: _norms_of_pieces(found, directions, team))

    def change(cohort: Cohort, direction: Tensor) -> Change:
        left, names = share_left(step, total_steps), cohort.names
        changes = _changes(cohort, plans, direction, gradients, lengths, config, left)
        cohort.count += 1
        return Change(names, changes, [rates[name] for name in names], [decays[name] for name in names])

    yield from map(change, found, directions)


def _accumulate_(
    cohort: Cohort,
    gradients: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    config: UpdateConfig,
    team: Alone,
    gate: Tensor | None,
) -> Tensor:  # -> [all entries]
    """The averages of a cohort after one more gradient; returns the gradients in units, in the eigenbases."""
    each, count = [gradients[name] for name in cohort.names], cohort.count
    dtype = each[0].dtype
    sizes = root_mean_square(team.norms(cohort.names, each), cohort.entries, dtype)
    divisors, units, carries = next_unit(sizes, cohort.unit, count, config)
    write_(cohort.unit, units, gate)
    torch._foreach_add_([state["step"] for state in cohort.states], 1.0)
    each = dict(zip(cohort.names, torch._foreach_div(each, list(divisors.unbind())), strict=True))
    if isinstance(carries, Tensor):
        carries = carries if gate is None else torch.where(gate, carries, 1.0)
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
        for name in stack.names:
            del each[name]

        def weight(stack=stack) -> Tensor:
            return stack.view(weights).to(dtype)

        if count == 1:
            for key, value in first_bases(sides, weight, gradient, stack.state, config).items():
                stack.state[key].copy_(value)
        gradient = into_bases(sides, gradient, stack.state)
        for side in sides:
            new, by = follow(side, weight, gradient, carry, stack.state, count, config)
            for key, value in new.items():
                write_(stack.state[key], value, gate)
            if by is not None:
                momentum, squares = (x[stack.place].view(stack.shape) for x in (cohort.momentum, cohort.second_moment))
                gradient = turn(gradient, side, by)
                write_(momentum, turn(momentum, side, by), gate)
                write_(squares, turn(squares, side, by.square()), gate)
        turned.append(gradient.reshape(-1))
    turned += [each[name].reshape(-1) for name in cohort.names[cohort.first_vector :]]
    gradient = torch.cat(turned) if len(turned) > 1 else turned[0]
    del turned
    momentum, squares, decay = cohort.momentum, cohort.second_moment, config.second_moment
    if gate is None:
        momentum.lerp_(gradient, 1.0 - config.momentum)
        squares.mul_(decay).addcmul_(gradient, gradient, value=1.0 - decay)
    else:
        write_(momentum, torch.lerp(momentum, gradient, 1.0 - config.momentum), gate)
        write_(squares, (squares * decay).addcmul_(gradient, gradient, value=1.0 - decay), gate)
    return gradient


def _direct_(
    cohort: Cohort, gradient: Tensor, config: UpdateConfig, gate: Tensor | None
) -> Tensor:  # [all entries], twice
    """The directions of a cohort, in the eigenbases, written over its gradients; zero where the gate is closed."""
    count, decay, split = cohort.count, config.momentum, cohort.matrices
    torch.lerp(cohort.momentum[:split], gradient[:split], 1.0 - decay, out=gradient[:split])
    gradient[:split].div_(1.0 - decay ** (count + 1))
    torch.div(cohort.momentum[split:], 1.0 - decay**count, out=gradient[split:])
    gradient.div_(cohort.second_moment.div(1.0 - config.second_moment**count).add_(EPS**2).sqrt_())
    return gradient if gate is None else gradient.masked_fill_(gate.logical_not(), 0.0)


def _changes(
    cohort: Cohort,
    plans: Mapping[str, ParamPlan],
    direction: Tensor,  # [all entries]
    gradients: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor] | None,
    config: UpdateConfig,
    left: float,
) -> list[Tensor]:
    """Directions in the shapes of parameters, times size; ``lengths``: known ones, None if all controls are zero."""
    parts = _parts(cohort, direction, back=True)
    changes = [parts[name] for name in cohort.names]
    size = _scales(cohort, plans, config, left)
    if lengths is not None and any("controls" in state for state in cohort.states):
        none = size.new_zeros(CONTROLS)
        said = torch.stack([state.get("controls", none) for state in cohort.states])
        norms = torch.stack([lengths[name] if name in lengths else rms(parts[name]) for name in cohort.names])
        size = size * torch.exp(said[:, LOG_GAIN]) * norms.clamp_min(FLOOR) ** -said[:, EXPONENT]
    torch._foreach_mul_(changes, list(size.unbind()))
    return [
        plans[name].unview(part, tuple(gradients[name].shape)) for name, part in zip(cohort.names, changes, strict=True)
    ]


def _norms_of_pieces(
    found: Iterable[Cohort], directions: Iterable[Tensor], team: Alone
) -> dict[str, Tensor]:  # float64 [] each
    """Norms of the directions of what is here in part."""
    norms = {}
    for cohort, direction in zip(found, directions, strict=True):
        if any(name in team.pieces for name in cohort.names):
            for name, part in _parts(cohort, direction).items():  # a rotation leaves norms as they are
                norms[name] = torch.linalg.vector_norm(part, dtype=torch.float64)
    return {name: norm for name, norm in norms.items() if name in team.pieces}


def _scales(cohort: Cohort, plans: Mapping[str, ParamPlan], config: UpdateConfig, left: float) -> Tensor:  # [tensor]
    """Guard times scale of each parameter. Where that changes, it does so in a line."""
    if cohort.scale is None:
        cohort.scale = _scales_at(cohort, plans, config, 1.0)
        alike = all(
            step_scale(plans[name], config, 1.0, 0.0) == step_scale(plans[name], config, 1.0) for name in cohort.names
        )
        cohort.last_scale = None if alike else _scales_at(cohort, plans, config, 0.0)
    return cohort.scale if cohort.last_scale is None else torch.lerp(cohort.last_scale, cohort.scale, left)


def _scales_at(cohort: Cohort, plans: Mapping[str, ParamPlan], config: UpdateConfig, left: float) -> Tensor:  # [tensor]
    found = zip(cohort.names, cohort.states, strict=True)
    return torch.stack(
        [own["guard"] * step_scale(plans[name], config, own["initial_rms"], left) for name, own in found]
    )


def _parts(cohort: Cohort, joined: Tensor, *, back: bool = False) -> dict[str, Tensor]:
    """Parts of what is joined, by parameter: in the eigenbases, or ``back`` out of them; in the matrix view if any."""
    parts: dict[str, Tensor] = {}
    for stack in cohort.stacks:
        own = joined[stack.place].view(stack.shape)
        own = out_of_bases(stack.plan.sides, own, stack.state) if back else own
        parts |= zip(stack.names, own.split(stack.plan.matrix_shape[0]), strict=True)
    return parts | _vectors(cohort, joined)


def _vectors(cohort: Cohort, joined: Tensor) -> dict[str, Tensor]:
    """Parts of what is joined of the parameters that are no matrices, in their shapes."""
    states, names = cohort.states[cohort.first_vector :], cohort.names[cohort.first_vector :]
    shapes = [state["momentum"].shape for state in states]
    parts = joined[cohort.matrices :].split([math.prod(shape) for shape in shapes]) if names else ()
    return {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
