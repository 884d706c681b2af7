"""The update of ngopt, as a pure function. Read this file first.

    u = -lr * schedule(t) * (gain * scale * normalise( sum_k (1[k = 0] + gate_k) * direction_k ) + weight_decay * w)

* ``direction_k``: a few hand-made directions; the first one leads. Matrices: the orthogonalised momentum. All others:
  the Adam-like one (`ngopt.optim.basis`).
* ``gate_k``: one number per direction, row and column of a parameter, the sum of what its tensor, its out neuron and
  its in neuron say. Neurons decide, weights follow (`ngopt.optim.gates`).
* ``gain``: one learned number per tensor. ``scale``: ``1 / sqrt(fan_in)`` for matrices (`ngopt.optim.plan`).
* ``schedule``: warm-up, decay to zero over the horizon, and a learned factor (`ngopt.optim.schedule`).

Heads start at zero, so that an untrained rule has gates zero and gain one: it is normalised Muon with Adam-like steps
for vectors, exactly. `ngopt.optim.reference` writes that out without any of this machinery, and a test holds both
bit-equal. `ngopt.optim.inplace.update_` is the same function in place, for the deployed optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.optim.basis import BASIS, accumulate, directions, floor_of, rms
from ngopt.optim.config import DEFAULT_LR, OrthogonalConfig, UpdateConfig
from ngopt.optim.gates import Gates, combine
from ngopt.optim.inplace import update_
from ngopt.optim.plan import in_state_dtype, option, plan_all, plan_param
from ngopt.optim.rule import ParamState, UpdateRule
from ngopt.optim.schedule import horizon_factor, is_refresh, warmup_and_decay

__all__ = [
    "DEFAULT_LR",
    "OrthogonalConfig",
    "ParamState",
    "UpdateConfig",
    "UpdateRule",
    "init_state",
    "update",
    "update_",
]


def init_state(param: Tensor, block: ParamBlock | None, config: UpdateConfig) -> ParamState:
    """State of a parameter before its first step: keys, shapes and dtypes stay as they are from then on.

    At most two floats per entry of the parameter, and a few per neuron. Half-precision parameters get float32 state.

    Args:
        param: The parameter.
        block: Where it lies on the graph; None if it does not.
        config: Settings of the rule.

    Returns:
        ``step`` (a float32 scalar on the CPU, as in torch), ``momentum``, ``second_moment`` or ``row_square`` and
        ``col_square``, and on a graph the cached gates ``tensor_gates``, ``row_gates`` and ``col_gates``.
    """
    plan = plan_param("", tuple(param.shape), block, False, config)
    group, row, col, _ = plan.matrix_shape
    dtype = torch.promote_types(param.dtype, torch.float32)
    zeros = torch.zeros_like(param, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    state = {"step": torch.zeros((), dtype=torch.float32), "momentum": zeros}
    if plan.orthogonal:
        state["row_square"], state["col_square"] = zeros.new_zeros(group, row), zeros.new_zeros(group, col)
    else:
        state["second_moment"] = zeros.clone()
    if block is not None:
        state["tensor_gates"] = zeros.new_zeros(BASIS + 1)
        state["row_gates"] = zeros.new_zeros(BASIS, group * row)
        if block.is_edge:
            state["col_gates"] = zeros.new_zeros(BASIS, group * col)
    return state


def update(
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
) -> tuple[dict[str, Tensor], dict[str, ParamState]]:
    """One step, out of place and differentiable: what to add to each weight, and the new state.

    Differentiable in the rule, and through the directions in weights, gradients and state; what the encoder and the
    heads read is detached.

    Args:
        rule: The meta-parameters.
        graph: The neural graph; None: all parameters take the per-tensor rule.
        weights: Parameters by name: the names of the graph's blocks, or others, which take the per-tensor rule. May
            hold more than is optimised: the encoder reads frozen parameters too.
        grads: Gradients by name. A parameter without one (absent or None) is not updated and keeps its state.
        state: State by name, from `init_state` or an earlier step.
        step: Steps made so far; 0 in the first.
        lr: Learning rate, one for all or by name. Multiplies everything.
        weight_decay: Decoupled weight decay, one for all or by name.
        total_steps: The horizon of the built-in schedule; None: warm-up only.
        scheduled: False: no warm-up, no decay, no learned factor; the caller schedules ``lr``.

    Returns:
        Updates by name, for parameters with a gradient; and the new state of all parameters in ``state``.
    """
    config = rule.config
    gradients = in_state_dtype(grads, state)
    plans = plan_all(graph, gradients, config)
    new_state = dict(state)
    for name, plan in plans.items():
        new_state[name] = accumulate(plan, gradients[name], state[name], config)
    if graph is not None and is_refresh(step, config):
        for name, gates in rule.gates(graph, plans, weights, gradients, new_state, step, total_steps).items():
            new_state[name] = {**new_state[name], **gates.entries(like=new_state[name]["momentum"])}

    factor: float | Tensor = 1.0
    if scheduled:
        given = warmup_and_decay(step, total_steps, config.warmup_steps)
        given *= horizon_factor(total_steps, config.horizon_power)
        factor = given * rule.schedule(step, total_steps).double()
    updates = {}
    for name, plan in plans.items():
        own = new_state[name]
        weight = weights[name].to(own["momentum"].dtype)
        basis = directions(plan, gradients[name], own, config)
        gates = Gates.cached(own)
        mixed = basis[0] if gates is None else combine(basis, gates)
        direction = plan.from_matrix(mixed / rms(mixed).clamp_min(floor_of(plan)), tuple(weight.shape))
        gain = plan.scale if gates is None else plan.scale * torch.exp(gates.tensor[BASIS])
        rate = -option(lr, name) * factor
        updates[name] = (rate * (gain * direction + option(weight_decay, name) * weight)).to(weights[name].dtype)
    return updates, new_state
