"""What a step takes from the groups of an optimizer, and writes back: gradients, options, counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ngopt.optim.attach.match import Partition
from ngopt.optim.attach.options import Rates, check_gradient
from ngopt.optim.attachment import Attachment
from ngopt.optim.fast.stack import Cohorts
from ngopt.optim.notices import Notices
from ngopt.optim.rule.direction import ParamState
from ngopt.optim.sharded.look import Look
from ngopt.optim.sharded.shards import local_gradient
from ngopt.optim.sharded.step import sharded_update_
from ngopt.optim.update import update_

LATE = ("cuda",)  # devices on which steps are made before it is known whether they should be


def gradients(optimizer: Optimizer, attachment: Attachment) -> dict[str, Tensor]:
    """Gradients by name on the graph; makes state for parameters that get one for the first time.

    Raises:
        RuntimeError: A gradient is sparse.
    """
    attachment.follow(optimizer)
    groups, partitions = optimizer.param_groups, attachment.partitions
    if partitions is None or not groups[0]["step"] or _lack_state(optimizer, partitions):
        partitions = attachment.fit(optimizer, [p for group in groups for p in group["params"] if p.grad is not None])
    grads = {}
    for partition in partitions:
        for key, (index, param) in partition.params.items():
            if param.grad is not None:
                check_gradient(key, param.grad)
                grad = local_gradient(param)
                grads[key] = -grad if groups[index]["maximize"] else grad
    return grads


def _lack_state(optimizer: Optimizer, partitions: Iterable[Partition]) -> bool:
    params = (param for partition in partitions for _, param in partition.params.values())
    return any(param.grad is not None and not optimizer.state.get(param) for param in params)


def update_groups(
    optimizer: Optimizer,
    partitions: Iterable[Partition],
    grads: Mapping[str, Tensor],
    looks: Iterable[Look],
    notices: Notices,
    rates: Rates,
    gate: Tensor | None = None,  # bool []
) -> list[Cohorts]:
    """Write one step into weights, state and counts; returns what was stepped.

    Args:
        optimizer: Its groups and state.
        partitions: What is stepped.
        grads: Gradients by name on the graph.
        looks: At the gradients of the partitions that are sharded.
        notices: Where it warns.
        rates: What ``lr`` has been so far.
        gate: Whether to change anything but counts; see `ngopt.optim.skips`.

    Raises:
        ValueError: An option of a group is not finite; nothing was changed.
    """
    groups, state = optimizer.param_groups, optimizer.state
    step, total_steps, scheduled = groups[0]["step"], groups[0]["total_steps"], groups[0]["schedule"] == "builtin"
    lrs, decays = ([_finite(group, option) for group in groups] for option in ("lr", "weight_decay"))
    if scheduled and total_steps is not None and step >= total_steps:
        notices.once(
            "horizon",
            f"Step {step + 1} is past total_steps={total_steps}, where the built-in schedule has fallen to zero: "
            "weights do not change any more. Give total_steps= the length of the whole run.",
        )
    if (leftover := rates.explain_leftover(step, groups)) is not None:
        notices.once("lr", leftover)
    sharded = {id(look.spread.partition): look for look in looks}
    stepped = []
    for partition in partitions:
        rest: dict[str, Any] = dict(
            step=step,
            total_steps=total_steps,
            scheduled=scheduled,
            lr={key: lrs[index] for key, (index, _) in partition.params.items()},
            weight_decay={key: decays[index] for key, (index, _) in partition.params.items()},
        )
        mine = {key: grads[key] for key in partition.params if key in grads}
        if (look := sharded.get(id(partition))) is not None:
            sharded_update_(look, state, **rest)
        elif mine:
            own = _state_of(partition, optimizer)
            rule, graph, cohorts = partition.rule, partition.graph, partition.cohorts
            update_(rule, graph, partition.readable, mine, own, cohorts=cohorts, gate=gate, **rest)
            stepped.append(cohorts)
    for group in groups:
        group["step"] += 1
    return stepped


def may_be_late(optimizer: Optimizer, partitions: Iterable[Partition], grads: Mapping[str, Tensor]) -> bool:
    """Whether a step can have a gate: all of it is on one CUDA device, and waits for nothing else."""
    devices = {grad.device for grad in grads.values()}
    if len(devices) != 1 or devices.pop().type not in LATE:
        return False
    parts = [(partition, [key for key in partition.params if key in grads]) for partition in partitions]
    return all(
        partition.cohorts.ripe(partition.graph, names, _state_of(partition, optimizer), partition.rule.config)
        for partition, names in parts
        if names
    )


def _state_of(partition: Partition, optimizer: Optimizer) -> dict[str, ParamState]:
    state = optimizer.state
    return {key: state[param] for key, (_, param) in partition.params.items() if param in state}


def _finite(group: Mapping[str, Any], option: str) -> float:
    value = float(group[option])
    if not math.isfinite(value):
        raise ValueError(f"{option}={value!r} in param_groups is not finite: this step would destroy the weights.")
    return value
