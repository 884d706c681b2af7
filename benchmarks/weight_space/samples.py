"""The networks of a split or a batch: stacks of one architecture each, and what is to be said about each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.inr_data.siren import Params
from ngopt.graph.neural_graph import NeuralGraph

NOT_FINITE = "weights are not finite"


@dataclass(frozen=True)
class Stack:
    """Networks of one architecture.

    Attributes:
        graph: Their graph; None for models that look at flat weights alone.
        params: ``name -> [net, *shape]``.
        family: Of architectures, for colours and tables.
        architecture: What the graph was traced from, if anybody wants to know.
    """

    graph: NeuralGraph | None
    params: Params
    family: str = ""
    architecture: Any = None

    def __len__(self) -> int:
        """Number of networks."""
        return len(next(iter(self.params.values())))

    def __getitem__(self, indices: Tensor | slice) -> Stack:
        """Some of the networks."""
        params = {name: p[indices] for name, p in self.params.items()}
        return Stack(self.graph, params, self.family, self.architecture)


@dataclass(frozen=True)
class Samples:
    """Stacks of networks with their targets; networks are numbered through, one stack after the other.

    Attributes:
        stacks: Not empty.
        targets: ``[net, ...]``.
        runs: Networks with the same number are not independent, ``[net]``; None where all are.
        left_out: What is wrong with networks that were left out, and which these were.
    """

    stacks: tuple[Stack, ...]
    targets: Tensor
    runs: Tensor | None = None
    left_out: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.targets)

    def __getitem__(self, indices: Tensor | slice) -> Samples:
        """Some of the networks, those of one architecture together, else in the order given."""
        if len(self.stacks) == 1:
            runs = None if self.runs is None else self.runs[indices]
            return Samples((self.stacks[0][indices],), self.targets[indices], runs)
        device = self.targets.device
        if isinstance(indices, slice):
            indices = torch.arange(len(self), device=device)[indices]
        starts = torch.tensor([len(stack) for stack in self.stacks], device=device).cumsum(0)
        stack_of = torch.searchsorted(starts, indices, right=True)
        order = stack_of.argsort(stable=True)
        indices, stack_of = indices[order], stack_of[order]
        found, counts = stack_of.unique_consecutive(return_counts=True)
        stacks = []
        for k, mine in zip(found.tolist(), indices.split(counts.tolist()), strict=True):
            stacks.append(self.stacks[k][mine - (starts[k] - len(self.stacks[k]))])
        return Samples(tuple(stacks), self.targets[indices], None if self.runs is None else self.runs[indices])

    def to(self, device: str) -> Samples:
        """The same on another device."""
        stacks = tuple(
            Stack(s.graph, {name: p.to(device) for name, p in s.params.items()}, s.family, s.architecture)
            for s in self.stacks
        )
        runs = None if self.runs is None else self.runs.to(device)
        return Samples(stacks, self.targets.to(device), runs, self.left_out)

    def families(self) -> list[str]:
        """The family of each network."""
        return [stack.family for stack in self.stacks for _ in range(len(stack))]

    def order(self, generator: Generator, together: int = 1) -> Tensor:
        """A shuffle ``[net]`` that keeps up to ``together`` networks of one architecture next to each other.

        A batch is read stack by stack, so that large stacks save time, and many of them make it like a fair draw.
        """
        if together == 1:
            return torch.randperm(len(self), generator=generator)
        chunks, start = [], 0
        for stack in self.stacks:
            chunks += (start + torch.randperm(len(stack), generator=generator)).split(together)
            start += len(stack)
        return torch.cat([chunks[k] for k in torch.randperm(len(chunks), generator=generator).tolist()])


def finite_samples(stack: Stack, targets: Tensor) -> Samples:
    """Networks of one architecture; those whose weights hold NaN or infinity are left out.

    Raises:
        ValueError: None is left.
    """
    finite = all_finite(stack.params)
    if not finite.any():
        raise ValueError("No network has finite weights: make the networks again.")
    bad = tuple((~finite).nonzero().flatten().tolist())
    return Samples((stack[finite],), targets[finite], left_out={NOT_FINITE: bad} if bad else {})


def counts(splits: Mapping[str, Samples]) -> dict[str, Any]:
    """What a row says of its networks: how many there are, and which were left out and why; JSON."""
    left_out = {name: {why: list(which) for why, which in s.left_out.items()} for name, s in splits.items()}
    return {"networks": {name: len(samples) for name, samples in splits.items()}, "left_out": left_out}


def all_finite(params: Params) -> Tensor:  # bool [net]
    """Which networks have no NaN and no infinity."""
    return torch.stack([p.flatten(1).isfinite().all(1) for p in params.values()]).all(0)


def flat(samples: Samples) -> Samples:
    """All networks as one stack, for models that see flat weights: architectures fall together.

    Raises:
        ValueError: The networks' parameters have different names or shapes.
    """
    shapes = {tuple((name, p.shape[1:]) for name, p in stack.params.items()) for stack in samples.stacks}
    if len(shapes) > 1:
        raise ValueError(
            f"Flat weights need networks of the same shapes, and these have {len(shapes)} different ones. "
            "Choose another --encoder."
        )
    family = " or ".join(dict.fromkeys(stack.family for stack in samples.stacks))
    stack = Stack(None, joined([stack.params for stack in samples.stacks]), family)
    return Samples((stack,), samples.targets, samples.runs, samples.left_out)


def joined(params: Sequence[Params]) -> Params:
    """Stacks of the same shapes, one after the other."""
    return {name: torch.cat([p[name] for p in params]) for name in params[0]}
