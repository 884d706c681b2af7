"""What ranks find together in one step: which gradients there are, whether all are finite, how large they are.

It is the team of `ngopt.optim.fast.inplace.changes_`. Its collectives come in the same order on all ranks,
whatever each of them steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.finite import nonfinite
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.controls import CONTROLS
from ngopt.optim.rule.direction import ParamState, root_mean_square
from ngopt.optim.rule.guard import guard_from
from ngopt.optim.rule.plan import ParamPlan
from ngopt.optim.rule.team import Alone, Read
from ngopt.optim.sharded.spread import Spread


class Look(Alone):
    """A look at the gradients of one step. All ranks make it together.

    Args:
        spread: The partition.
        grads: What this rank has of them, by name.
        initial: Root mean squares of all initial weights, by name.

    Attributes:
        bad: Names of gradients on this rank that hold NaN or infinity.
        finite: Whether there are none on any rank.
        present: Names of sharded parameters that have a gradient on any rank, in the same order on all of them.
        shards: What this rank has of these gradients; zeros where it has none.
        plain: Gradients of parameters that are not sharded.
    """

    def __init__(self, spread: Spread, grads: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> None:
        self.spread, self.initial = spread, initial
        self.plain = {name: grads[name] for name in spread.plain if name in grads}
        sharded = {name: grads[name] for name in spread.params if name in grads}
        self.apart = frozenset(self.plain)
        self.pieces = spread.in_parts
        names = list(spread.params)
        bad_plain = nonfinite(self.plain) if self.plain else []
        found = spread.squares(sharded)
        row = {**found, **{f"has {name}": 1.0 for name in sharded}, "bad": float(bool(bad_plain))}
        said = spread.by_name(row, [*names, *(f"has {name}" for name in names), "bad"])
        self._squares = dict(zip(names, said, strict=False))
        *counts, any_bad = said[len(names) :].tolist()
        self.present = [name for name, count in zip(names, counts, strict=True) if count]
        self.shards = {name: sharded[name] if name in sharded else self._zeros(name) for name in self.present}
        self.finite, self.bad = not any_bad, bad_plain
        if not bool(torch.isfinite(said[: len(names)]).all()):  # or squares of finite entries that overflow
            self.bad = [*bad_plain, *nonfinite({name: x for name, x in sharded.items() if x.numel()})]
            flag = spread.by_name({"bad": float(bool(self.bad))}, ["bad"], "MAX")
            self.finite = not bool(flag.item())

    def _zeros(self, name: str) -> Tensor:
        size = self.spread.boxes[name].size
        return torch.zeros(size, dtype=self.spread.dtypes[name], device=self.spread.partition.device)

    def _count(self, name: str) -> int:
        return math.prod(self.spread.held[name].shape)

    def plans(
        self,
        graph: NeuralGraph | None,
        gradients: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        config: UpdateConfig,
    ) -> dict[str, ParamPlan]:
        """Those of the pieces that this rank steps."""
        plain = super().plans(graph, {name: gradients[name] for name in self.plain}, state, config)
        return {name: plain[name] if name in plain else self.spread.mine[name].plan for name in gradients}

    def guard(
        self,
        graph: NeuralGraph | None,
        weights: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        config: UpdateConfig,
    ) -> Tensor:
        """From the initial weights of all ranks."""
        plain = {name: state[name]["initial_rms"] for name in self.apart}
        shapes = {name: own.shape for name, own in self.spread.held.items()}
        shapes |= {name: tuple(x.shape) for name, x in self.plain.items()}
        return guard_from(graph, shapes, {**self.initial, **plain}, config)

    def norms(self, names: list[str], gradients: list[Tensor]) -> Tensor:
        """From all ranks."""
        if names[0] in self.apart:
            return super().norms(names, gradients)
        return torch.stack([self._squares[name] for name in names]).sqrt().to(gradients[0].device)

    def lengths(self, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """From all ranks."""
        names = [name for name in self.present if name in self.pieces]
        norms = self.spread.by_name({name: norm.square() for name, norm in find().items()}, names).sqrt()
        return {
            name: root_mean_square(
                norm, self._count(name), torch.promote_types(self.spread.dtypes[name], torch.float32)
            )
            for name, norm in zip(names, norms, strict=True)
        }

    def reads(self, name: str) -> bool:
        """The first rank reads what is not sharded."""
        return name in self.spread.held or self.spread.rank == 0

    def whole(self, parts: dict[str, Read]) -> dict[str, Read]:
        """Each parameter is read by one rank."""
        spread, readers = self.spread, self.spread.readers
        read = {name: own for name, own in parts.items() if name not in readers}
        names = list(readers)
        trained = [name for name in names if name in self.present]
        here = {name: own for name, own in parts.items() if name in readers}
        weights = dict(spread.to_readers(names, {name: w for name, (w, _, _) in here.items()}))
        seen: list[dict[str, Tensor]] = []
        for index in (1, 2):
            averages = {n: x.to(spread.dtypes[n]) for n, own in here.items() if (x := own[index]) is not None}
            seen.append(dict(spread.to_readers(trained, averages)))
        read.update({name: (w, seen[0].get(name), seen[1].get(name)) for name, w in weights.items()})
        return read

    def total(self, x: Tensor) -> Tensor:
        """See `Alone.total`."""
        return self.spread.total(x)

    def shared(self, said: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the readers and owners say, to all that step a part."""
        spread, graph = self.spread, self.spread.partition.graph
        on_graph = {block.name for block in graph.blocks} if graph is not None else set()
        names = [name for name in (*self.present, *spread.plain) if name in on_graph]
        rows = torch.zeros(len(names), CONTROLS, dtype=torch.float64, device=spread.partition.device)
        for i, name in enumerate(names):
            if name in said:
                rows[i] = said[name]
        everyone = dict(zip(names, self.total(rows), strict=True))
        return {name: own for name, own in everyone.items() if name in spread.mine or name in self.apart}
