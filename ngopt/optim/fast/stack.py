"""Parameters that are stepped alike, as one: a hundred of them then cost little more than one.

The state of a parameter is a dict of tensors. Entries of the same kind are kept as views of one buffer, so that one
kernel works on all of them. What is arranged here stays as it is from step to step, and is arranged anew when other
parameters have gradients, or when somebody (loading does) puts other tensors into a state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.direction import OF_SIDES, ParamState
from ngopt.optim.rule.plan import ParamPlan
from ngopt.optim.rule.team import ALONE, Alone

SMALL = 2**18  # parameters of at most so many entries are stacked
SMALL_ON_GPU = 2**22  # where starting a kernel costs more than running it
# Entries of a cohort, unless one parameter has more. A step takes memory for about seven copies of a cohort: that of a
# large network has a share of it, that of a small one as many entries as make starting kernels cheap.
MOST, LEAST, LEAST_ON_GPU, SHARE = 2**24, 2**20, 2**22, 1 / 64


@dataclass
class Stack:
    """Matrices of one form, joined along their first axis.

    Attributes:
        names: Of the parameters.
        plans: Of each.
        place: Where their entries are in the buffers of the cohort.
        shape: Of the averages of all of them, in the eigenbases.
        state: Their factors, bases and orders, each joined.
    """

    names: list[str]
    plans: list[ParamPlan]
    place: slice
    shape: tuple[int, ...]
    state: ParamState

    @property
    def plan(self) -> ParamPlan:
        """The first of the plans; the others have the same sides."""
        return self.plans[0]

    def view(self, tensors: Mapping[str, Tensor]) -> Tensor:  # -> [batch, row, col, tap]
        """Parameter-shaped tensors in the matrix view, joined."""
        views = [plan.view(tensors[name]) for name, plan in zip(self.names, self.plans, strict=True)]
        return torch.cat(views) if len(views) > 1 else views[0]

    def spread(self, values: Tensor) -> Tensor:  # [tensor] -> [batch, 1, 1, 1]
        """Numbers of each matrix, to broadcast against what is joined."""
        group = self.plan.matrix_shape[0]
        return (values.repeat_interleave(group) if group > 1 else values).view(-1, 1, 1, 1)


@dataclass
class Cohort:
    """Parameters of one number type and device that have made equally many steps.

    Attributes:
        names: Of the parameters: matrices stack by stack, then the others.
        states: Of each.
        count: Number of the step of theirs that comes next, from 1.
        stacks: The matrices.
        first_vector: Index in ``names`` of the first that is no matrix,
        matrices: and number of entries in the buffers before it.
        momentum: Of all, one behind the other.
        second_moment: Likewise.
        unit: ``[tensor]``.
        entries: Number of entries of each whole parameter, float64 ``[tensor]``.
        scale: Of each step at the start of a run, the guard included, ``[tensor]``; found in the first step,
        last_scale: and at its end; None if that is the same.
    """

    names: list[str]
    states: list[ParamState]
    count: int
    stacks: list[Stack]
    first_vector: int
    matrices: int
    momentum: Tensor
    second_moment: Tensor
    unit: Tensor
    entries: Tensor
    scale: Tensor | None = None
    last_scale: Tensor | None = None

    @classmethod
    def of(
        cls, names: Sequence[str], plans: Mapping[str, ParamPlan], state: Mapping[str, ParamState], count: int
    ) -> Cohort:
        """Arrange parameters, and move their averages into buffers."""
        forms: dict[int, list[str]] = {}
        for name in names:
            if plans[name].sides:
                forms.setdefault(plans[name].form, []).append(name)
        vectors = [name for name in names if not plans[name].sides]
        ordered = [name for alike in forms.values() for name in alike] + vectors
        states = [state[name] for name in ordered]
        momentum, second_moment = join(states, "momentum"), join(states, "second_moment")
        stacks, at = [], 0
        for alike in forms.values():
            own = [state[name] for name in alike]
            one = own[0]["momentum"]
            size = len(alike) * one.numel()
            shape = (len(alike) * one.shape[0], *one.shape[1:])
            parts = {
                key: join(own, key).view(-1, *entry.shape[1:])
                for key, entry in own[0].items()
                if key.endswith(OF_SIDES)
            }
            stacks.append(Stack(alike, [plans[name] for name in alike], slice(at, at + size), shape, parts))
            at += size
        unit = join(states, "unit")
        counts = [plans[name].entries for name in ordered]
        entries = torch.tensor(counts, dtype=torch.float64).to(unit.device, non_blocking=True)
        first_vector = len(ordered) - len(vectors)
        return cls(ordered, states, count, stacks, first_vector, at, momentum, second_moment, unit, entries)

    def holds(self, state: Mapping[str, ParamState]) -> bool:
        """Whether the averages of these states are still where they were put."""
        return all(
            state[name] is own and own["momentum"]._base is self.momentum
            for name, own in zip(self.names, self.states, strict=True)
        )


@dataclass
class Cohorts:
    """The cohorts of an optimizer, kept from step to step."""

    key: tuple = ()
    found: list[Cohort] = field(default_factory=list)
    plans: dict[str, ParamPlan] = field(default_factory=dict)

    def of(
        self,
        graph: NeuralGraph | None,
        gradients: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        config: UpdateConfig,
        team: Alone = ALONE,
    ) -> tuple[list[Cohort], dict[str, ParamPlan]]:
        """Of the parameters that have gradients now; and the plan of each."""
        key = (id(graph), tuple(gradients), config)
        if not self._arranged(key, state):
            self.plans = team.plans(graph, gradients, state, config)
            self.key, self.found = key, _arrange(self.plans, gradients, state, team.apart)
        return self.found, self.plans

    def _arranged(self, key: tuple, state: Mapping[str, ParamState]) -> bool:
        return key == self.key and all(cohort.holds(state) for cohort in self.found)

    def ripe(
        self, graph: NeuralGraph | None, names: Iterable[str], state: Mapping[str, ParamState], config: UpdateConfig
    ) -> bool:
        """Whether these parameters are arranged, and past the steps in which bases come from eigendecompositions.

        Those wait for the device, and fail on NaN.
        """
        arranged = self._arranged((id(graph), tuple(names), config), state)
        return arranged and all(cohort.count > config.bases_every for cohort in self.found)

    def take_back(self) -> None:
        """Count the last step as not made: its gate was closed."""
        for cohort in self.found:
            cohort.count -= 1
            for state in cohort.states:
                state["step"] -= 1.0


def _arrange(
    plans: Mapping[str, ParamPlan],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, ParamState],
    apart: Collection[str],
) -> list[Cohort]:
    alike: dict[tuple, list[list[str]]] = {}
    room: dict[tuple, int] = {}
    total = sum(gradient.numel() for gradient in gradients.values())
    for name in sorted(gradients, key=lambda name: plans[name].form):  # those that are stacked, side by side
        gradient, count = gradients[name], int(state[name]["step"]) + 1
        small, least = (SMALL, LEAST) if gradient.device.type == "cpu" else (SMALL_ON_GPU, LEAST_ON_GPU)
        alone = name if gradient.numel() > small else None
        kind = (gradient.dtype, gradient.device, name in apart, count, alone)
        room[kind] = room.get(kind, 0) - gradient.numel()
        if kind not in alike or room[kind] < 0:
            alike.setdefault(kind, []).append([])
            room[kind] = min(MOST, max(least, int(SHARE * total))) - gradient.numel()
        alike[kind][-1].append(name)
    return [Cohort.of(names, plans, state, count) for (*_, count, _), parts in alike.items() for names in parts]


def join(states: Sequence[ParamState], key: str) -> Tensor:
    """One entry of several states, one behind the other, ``[all entries]``; they are views of it, now and later."""
    entries = [state[key] for state in states]
    if (buffer := _buffer(entries)) is not None:
        return buffer
    joined, at = torch.cat([entry.reshape(-1) for entry in entries]) if len(entries) > 1 else entries[0].reshape(-1), 0
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
