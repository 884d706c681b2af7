"""What the update must know of whole tensors and of the whole network, where ranks share the work between them.

`ngopt.optim.fast.inplace.changes_` asks its team for all of it. One process alone has everything;
`ngopt.optim.sharded.look` is the team of ranks that hold shards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.direction import ParamState
from ngopt.optim.rule.guard import guard_of
from ngopt.optim.rule.plan import ParamPlan, plan_all

Read = tuple[Tensor, Tensor | None, Tensor | None]  # weight, gradient, momentum; the last two of what is trained


class Alone:
    """One process that has the whole network; what other teams override.

    Attributes:
        apart: Names of parameters that are stepped apart from all others, since every rank has them: it must do so in
            the same stacks as all other ranks.
        pieces: Names of parameters of which a rank may step a part only: some groups of a stack of matrices, or some
            entries of what is stepped entry by entry.
    """

    apart: Collection[str] = frozenset()
    pieces: Collection[str] = frozenset()

    def plans(
        self,
        graph: NeuralGraph | None,
        gradients: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        config: UpdateConfig,
    ) -> dict[str, ParamPlan]:
        """How what has a gradient here is stepped."""
        return plan_all(graph, state, {name: tuple(gradient.shape) for name, gradient in gradients.items()}, config)

    def guard(
        self,
        graph: NeuralGraph | None,
        weights: Mapping[str, Tensor],
        state: Mapping[str, ParamState],
        config: UpdateConfig,
    ) -> Tensor:  # -> []
        """See `ngopt.optim.rule.guard`."""
        return guard_of(graph, weights, state, config)

    def norms(self, names: list[str], gradients: list[Tensor]) -> Tensor:  # -> float64 [tensor]
        """Norms of whole gradients, all of one number type and device."""
        return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float64))  # pyright: ignore[reportPrivateImportUsage]

    def lengths(self, find: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Root mean squares of whole directions, of the `pieces`.

        Args:
            find: Gives the norms, in float64, of the parts that are here.
        """
        return {}

    def reads(self, name: str) -> bool:
        """Whether this rank reads a parameter for the encoder, if it has it: of those that all ranks have, one does."""
        return True

    def whole(self, parts: dict[str, Read]) -> dict[str, Read]:
        """What this rank reads for the encoder, of the `pieces` and of parameters that are not stepped at all.

        Args:
            parts: Shaped like the parameters, or like the parts of them that are here.

        Returns:
            The same, whole, of those that no other rank reads.
        """
        return parts

    def total(self, x: Tensor) -> Tensor:
        """Sum over all ranks."""
        return x

    def shared(self, said: dict[str, Tensor]) -> dict[str, Tensor]:
        """What all ranks say of the parameters that this one steps, from what it says itself."""
        return said


ALONE = Alone()
