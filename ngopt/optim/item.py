"""One parameter in one step, as the functions of `ngopt.optim.inplace` see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ngopt.optim.gates import Gates
from ngopt.optim.plan import ParamPlan
from ngopt.optim.rule import ParamState


@dataclass(slots=True)
class Item:
    """One parameter in one step."""

    plan: ParamPlan
    weight: Tensor
    gradient: Tensor  # in the number type of the state
    state: ParamState
    rate: float  # learning rate times schedule
    decay: float  # what weight decay leaves of the weight
    gates: Gates | None  # None: all zero

    def view(self, tensor: Tensor) -> Tensor:  # [group, first, second]
        """A tensor shaped like the parameter, as matrices ``[group, row, col * tap]`` in the number type of the state.

        A parameter that is stored as a transposed matrix (embeddings, GPT-2's projections) keeps its layout, because
        strided access is slow: rows come second then.
        """
        swapped = self.plan.transposed
        return (tensor.unsqueeze(0) if swapped else self.plan.to_matrix(tensor).flatten(2)).to(self.gradient.dtype)

    def unview(self, matrices: Tensor) -> Tensor:
        """Inverse of `view`, but for the number type."""
        if self.plan.transposed:
            return matrices.squeeze(0)
        return self.plan.from_matrix(matrices.reshape(self.plan.matrix_shape), tuple(self.weight.shape))

    def sides(self, rows: Tensor, cols: Tensor | None) -> tuple[Tensor, Tensor]:
        """Numbers per row ``[group * row]`` and column ``[group * col]``, to broadcast against a view. None: zero."""
        group, row, col, tap = self.plan.matrix_shape
        cols = rows.new_zeros(group * col) if cols is None else cols
        if self.plan.transposed:
            return rows.reshape(1, 1, row), cols.reshape(1, col, 1)
        cols = cols.reshape(group, 1, col, 1).expand(group, 1, col, tap)
        return rows.reshape(group, row, 1), cols.reshape(group, 1, col * tap)
