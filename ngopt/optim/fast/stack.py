"""Parameters that are stepped alike, as one: a hundred of them then cost what one does.

The state of a parameter is a dict of tensors. Entries of the same kind are kept as views of one buffer: joining them
again is then only a look at where they lie. Whoever puts other tensors into a state (loading does) finds them copied
into a new buffer at the next step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ngopt.optim.rule.direction import ParamState
from ngopt.optim.rule.plan import RELATIVE_ROLES, ParamPlan, option

SMALL = 2**18  # parameters of at most so many entries are stacked
SMALL_ON_GPU = 2**22  # where starting a kernel costs more than running it
OF_TENSORS = ("step", "initial_rms", "guard", "unit", "controls")  # entries of a state that say something of a tensor


@dataclass
class Stack:
    """Parameters that are stepped alike, in one step.

    Matrices of one form are joined along their first axis. Parameters without sides are flattened and joined, whatever
    their shapes.

    Attributes:
        names: Of the parameters.
        plans: Of each.
        states: Of each.
        count: Number of this step of theirs, from 1.
        lr: Of all of them.
        weight_decay: Likewise.
        gradient: Joined.
        state: Joined entries of averages, factors and bases.
    """

    names: list[str]
    plans: list[ParamPlan]
    states: list[ParamState]
    count: int
    lr: float
    weight_decay: float
    gradient: Tensor
    state: ParamState

    @property
    def plan(self) -> ParamPlan:
        """The first of the plans; the others have the same sides and scale."""
        return self.plans[0]

    def view(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Parameter-shaped tensors, joined."""
        views = [plan.view(tensors[name]) for name, plan in zip(self.names, self.plans, strict=True)]
        views = views if self.plan.sides else [x.reshape(-1) for x in views]
        return torch.cat(views) if len(views) > 1 else views[0]

    def parts(self, joined: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
        """The inverse of joining, as views: in the matrix view with sides, else shaped ``like`` others."""
        if self.plan.sides:
            return joined.split(self.plan.matrix_shape[0])
        return [part.view(x.shape) for part, x in zip(joined.split([x.numel() for x in like]), like, strict=True)]

    def spread(self, values: Tensor) -> Tensor:  # [tensor]
        """Numbers of each tensor, to broadcast against what is joined."""
        if len(self.names) == 1:
            return values.reshape(())
        if not self.plan.sides:
            counts = tuple(state["momentum"].numel() for state in self.states)
            return values.index_select(0, _members(counts, values.device))
        group = self.plan.matrix_shape[0]
        return (values.repeat_interleave(group) if group > 1 else values).reshape(-1, 1, 1, 1)


def stacks_of(
    plans: Mapping[str, ParamPlan],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, ParamState],
    lr: float | Mapping[str, float],
    weight_decay: float | Mapping[str, float],
) -> list[Stack]:
    """All parameters with a gradient, those that are stepped alike together."""
    alike: dict[tuple, list[str]] = {}
    for name, gradient in gradients.items():
        plan = plans[name]
        form = plan.form if plan.sides else (plan.is_matrix and plan.fan_in, plan.role in RELATIVE_ROLES)
        alone = name if gradient.numel() > (SMALL if gradient.device.type == "cpu" else SMALL_ON_GPU) else None
        count = int(state[name]["step"]) + 1
        kind = (form, gradient.dtype, gradient.device, "controls" in state[name], alone)
        alike.setdefault((*kind, count, option(lr, name), option(weight_decay, name)), []).append(name)
    found = []
    for (*_, count, own_lr, own_decay), names in alike.items():
        states = [state[name] for name in names]
        stack = Stack(names, [plans[name] for name in names], states, count, own_lr, own_decay, torch.empty(0), {})
        stack.gradient = stack.view(gradients)
        for key, entry in states[0].items():
            if key not in OF_TENSORS:
                joined = join(states, key)
                stack.state[key] = joined.view(-1, *entry.shape[1:]) if stack.plan.sides else joined
        found.append(stack)
    return found


def join(states: Sequence[ParamState], key: str) -> Tensor:
    """One entry of several states, one behind the other, ``[all entries]``; they are views of it, now and later."""
    entries = [state[key] for state in states]
    if len(entries) == 1:
        return entries[0].view(-1)
    if (buffer := _buffer(entries)) is not None:
        return buffer
    joined, at = torch.cat([entry.reshape(-1) for entry in entries]), 0
    for state, entry in zip(states, entries, strict=True):
        state[key] = joined[at : at + entry.numel()].view(entry.shape)
        at += entry.numel()
    return joined


def _buffer(entries: Sequence[Tensor]) -> Tensor | None:
    """The vector that entries fill, one behind the other; None if they do not."""
    base, at = entries[0]._base, 0
    if base is None or base.dim() != 1:
        return None
    for entry in entries:
        if entry._base is not base or entry.storage_offset() != at:
            return None
        at += entry.numel()
    return base if at == base.numel() else None


@functools.lru_cache(maxsize=256)
def counts_of(counts: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:  # [tensor]
    """Numbers of entries as a tensor; kept, since a GPU must not be waited for in every step."""
    return torch.tensor(counts, dtype=dtype).to(device, non_blocking=True)


@functools.lru_cache(maxsize=256)
def _members(counts: tuple[int, ...], device: torch.device) -> Tensor:  # [all entries]
    """Which of several tensors each entry of all belongs to."""
    which = torch.repeat_interleave(torch.tensor(counts), output_size=sum(counts))
    return which.to(device, non_blocking=True)
