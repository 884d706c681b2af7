"""The update of ngopt, as a pure function. Read this file first.

    u = -lr * step_size * schedule(t) * (guard * gain * scale * D / rms(D)^exponent + weight_decay * w)

* ``D``: SOAP's direction in the matrix view of the neural graph for matrices, Adam's for all others
  (`ngopt.optim.rule.direction`). It is not normalised by itself: where gradients are mostly noise, ``D`` is short.
* ``scale``: ``1 / sqrt(fan_in)`` for matrices, a constant for vectors, the initial size of embeddings
  (`ngopt.optim.rule.plan`).
* ``guard``: one factor in a network, from the size of its initial weights (`ngopt.optim.rule.guard`); times one for
  matrices that read small inputs (`ngopt.optim.rule.inputs`).
* ``gain``, ``exponent``: what the rule says of each tensor, from neuron embeddings (`ngopt.optim.rule.controls`).
* ``schedule``: warm-up, decay to zero over the horizon, and a learned factor (`ngopt.optim.rule.schedule`).

Heads start at zero, so that an untrained rule has gain one and exponent zero. `ngopt.optim.rule.reference` writes that
out without any of this machinery, and a test holds both equal. `ngopt.optim.fast.inplace.update_` is the same function
in place, on stacks of equal tensors, for the deployed optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.fast.inplace import update_
from ngopt.optim.rule.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.rule.controls import EXPONENT, FLOOR, LOG_GAIN
from ngopt.optim.rule.direction import ParamState, accumulate, direction, init_state, next_unit, rms
from ngopt.optim.rule.guard import guard_of
from ngopt.optim.rule.inputs import input_factor
from ngopt.optim.rule.plan import option, plan_all
from ngopt.optim.rule.scale import step_scale
from ngopt.optim.rule.schedule import Schedule, is_refresh, share_left
from ngopt.optim.rule.update_rule import UpdateRule

__all__ = ["DEFAULT_LR", "ParamState", "UpdateConfig", "UpdateRule", "init_state", "update", "update_"]


def update(
    rule: UpdateRule,
    graph: NeuralGraph | None,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    state: Mapping[str, ParamState],
    *,
    step: int,
    counts: Mapping[str, int] | None = None,
    lr: float | Mapping[str, float] = DEFAULT_LR,
    weight_decay: float | Mapping[str, float] = 0.0,
    total_steps: int | None = None,
    scheduled: bool = True,
) -> tuple[dict[str, Tensor], dict[str, ParamState]]:
    """One step, out of place and differentiable: what to add to each weight, and the new state.

    Differentiable in the rule, and through the directions in weights, gradients and state; eigenbases, and what the
    encoder and the heads read, are constants.

    Args:
        rule: The meta-parameters.
        graph: The neural graph; None: all parameters take the per-tensor rule.
        weights: Parameters by name: the names of the graph's blocks, or others, which take the per-tensor rule. May
            hold more than is optimised: the encoder reads frozen parameters too.
        grads: Gradients by name. A parameter without one (absent or None) is not updated and keeps its state.
        state: State by name, from `init_state` or an earlier step.
        step: Steps made so far; 0 in the first.
        counts: Steps that each parameter has made so far; None: all as many as ``step``.
        lr: Multiple of the rule's own step size, one for all or by name. Multiplies everything.
        weight_decay: Decoupled weight decay, one for all or by name.
        total_steps: The horizon of the built-in schedule; None: warm-up only.
        scheduled: False: no warm-up, no decay, no learned factor; the caller schedules ``lr``.

    Returns:
        Updates by name, for parameters with a gradient; and the new state of all parameters in ``state``.
    """
    config = rule.config
    gradients = {name: g.to(state[name]["momentum"].dtype) for name, g in grads.items() if g is not None}
    plans = plan_all(graph, state, {name: tuple(g.shape) for name, g in gradients.items()}, config)
    guard = guard_of(graph, weights, state, config)
    number = {name: (step if counts is None else counts[name]) + 1 for name in plans}
    new_state = dict(state)
    for name, plan in plans.items():
        own = state[name]
        divisor, unit, carry = next_unit(rms(gradients[name].detach()), own["unit"], number[name], config)
        gradients[name], averages = accumulate(
            plan.sides,
            partial(plan.view, weights[name].detach().to(gradients[name].dtype)),
            plan.view(gradients[name]) / divisor,
            carry,
            own,
            number[name],
            config,
        )
        new_state[name] = {**own, **averages, "step": own["step"] + 1, "unit": unit}
        if number[name] == 1:
            new_state[name]["guard"] = (guard * input_factor(graph, name)).to(own["guard"])
    if graph is not None and is_refresh(step, config):
        for name, said in rule.controls(graph, plans, weights, gradients, new_state, step, total_steps).items():
            new_state[name] = {**new_state[name], "controls": said.to(new_state[name]["controls"])}

    factor = Schedule(config, total_steps).factor(step, rule.schedule) if scheduled else 1.0
    updates = {}
    for name, plan in plans.items():
        own, weight = new_state[name], weights[name]
        found = direction(plan.sides, gradients[name], own, number[name], config)
        size = own["guard"] * step_scale(plan, config, own["initial_rms"], share_left(step, total_steps))
        if "controls" in own:
            log_gain, exponent = own["controls"][LOG_GAIN], own["controls"][EXPONENT]
            size = size * torch.exp(log_gain) * rms(found).clamp_min(FLOOR) ** -exponent
        change = plan.unview(found * size, tuple(weight.shape))
        rate = -option(lr, name) * config.step_size * factor
        updates[name] = (rate * (change + option(weight_decay, name) * weight.to(change.dtype))).to(weight.dtype)
    return updates, new_state
