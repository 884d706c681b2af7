"""From neuron embeddings to gates: the learned heads, all zero before meta-training.

Direction k of a parameter gets the gate ``tensor[k] + row[k, i] + col[k, j]`` at row i and column j. Each summand is
bounded, so that a rule can move only so far from the hand-made one: a trust region around the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ngopt.encoder.structure import Structure
from ngopt.optim.basis import BASIS
from ngopt.optim.config import UpdateConfig
from ngopt.optim.plan import ParamPlan

TENSOR_FEATURES = 19
HIDDEN = 16


@dataclass(frozen=True)
class Gates:
    """Gates of one parameter. They are deviations: all zero is the hand-made rule.

    Attributes:
        tensor: For each direction, ``[BASIS]``, and last the logarithm of the gain: ``[BASIS + 1]``.
        row: ``[BASIS, group * row]``.
        col: ``[BASIS, group * col]``; None for parameters with one neuron axis.
    """

    tensor: Tensor
    row: Tensor
    col: Tensor | None

    @classmethod
    def cached(cls, state: Mapping[str, Tensor]) -> Gates | None:
        """The gates of the last refresh, kept in a parameter's state; None for a parameter on no graph."""
        if "tensor_gates" not in state:
            return None
        return cls(state["tensor_gates"], state["row_gates"], state.get("col_gates"))

    def entries(self, like: Tensor) -> dict[str, Tensor]:
        """Inverse of `cached`: entries of a parameter's state, in the number type and on the device of ``like``."""
        entries = {"tensor_gates": self.tensor, "row_gates": self.row, "col_gates": self.col}
        return {key: value.to(like) for key, value in entries.items() if value is not None}


def combine(basis: tuple[Tensor, ...], gates: Gates) -> Tensor:  # [group, row, col, tap]
    """Mix the directions: the leading one with gate one, and all with what is learned on top."""
    group, row, col, _ = basis[0].shape
    mixed = basis[0]
    for k, direction in enumerate(basis):
        gate = gates.tensor[k] + gates.row[k].reshape(group, row, 1, 1)
        if gates.col is not None:
            gate = gate + gates.col[k].reshape(group, 1, col, 1)
        mixed = mixed + gate * direction
    return mixed


def tensor_features(
    plan: ParamPlan,
    weight: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    static: Structure,
    step: int,
    total_steps: int | None,
    dtype: torch.dtype,
) -> Tensor:  # [TENSOR_FEATURES]
    """What the tensor head sees of one parameter, besides its neurons. Independent of the scale of the loss.

    The size of the weights, in units of what keeps signals at their size, says how far a step carries: a network that
    multiplies its inputs by 30 (SIREN) has small weights, and wants small steps.
    """
    w, g, m = (x.to(dtype).flatten() for x in (weight, gradient, momentum))
    w_norm, g_norm, m_norm = (torch.linalg.vector_norm(x) + 1e-12 for x in (w, g, m))
    _, row, col, tap = plan.matrix_shape
    role = plan.block.role if plan.block is not None else "weight"
    is_edge = plan.block is not None and plan.block.is_edge
    constants = (
        math.log(row) / 5,
        math.log(col) / 5,
        math.log(tap) / 2,
        float(plan.orthogonal),
        float(is_edge),
        float(role == "scale"),
        float(role in ("embedding", "table")),
        float(plan.name in static.outputs),
        float(plan.name in static.inputs),
        math.log(static.depth.get(plan.name, 1)) - 1.5,
        math.log1p(step) / 5,
        0.0 if total_steps is None else min(1.0, step / total_steps),
        float(total_steps is None),
        0.0 if total_steps is None else math.log10(total_steps) - 3.0,
    )
    measured = torch.stack(
        [
            torch.dot(g, m) / (g_norm * m_norm),
            torch.dot(g, w) / (g_norm * w_norm),
            torch.dot(m, w) / (m_norm * w_norm),
            torch.tanh(torch.log(m_norm / g_norm)),
            torch.tanh(0.5 * torch.log(w_norm * math.sqrt(col * tap / len(w)))),
        ]
    )
    return torch.cat([measured, measured.new_tensor(constants)])


class GateHeads(nn.Module):
    """Reads gates off neuron embeddings, and off features of each tensor.

    Args:
        config: Widths and bounds.
    """

    def __init__(self, config: UpdateConfig) -> None:
        super().__init__()
        self.gate_bound = config.gate_bound
        self.gain_bound = config.gain_bound
        # Rows and columns of matrices, then of all others: what is right for a matrix need not be for a bias.
        self.row = nn.Linear(config.embedding, 2 * BASIS, bias=False)
        self.col = nn.Linear(config.embedding, 2 * BASIS, bias=False)
        self.tensor_in = nn.Linear(TENSOR_FEATURES + 2 * config.embedding, HIDDEN)
        self.tensor_out = nn.Linear(HIDDEN, BASIS + 1)
        # Kind, size and depth of a tensor decide much by themselves: a direct way makes them quick to learn.
        self.tensor_direct = nn.Linear(TENSOR_FEATURES, BASIS + 1, bias=False)
        for layer in (self.row, self.col, self.tensor_out, self.tensor_direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.tensor_out.bias)
        with torch.no_grad():  # what neurons say about their tensors is noise before it is learned
            self.tensor_in.weight[:, TENSOR_FEATURES:] = 0.0

    def neutral(self) -> bool:
        """Whether all gates are zero whatever the features."""
        layers = (self.row, self.col, self.tensor_out, self.tensor_direct)
        return not any(bool(p.any()) for layer in layers for p in layer.parameters())

    def forward(
        self,
        embeddings: Tensor,  # [node, embedding]
        static: Structure,
        plans: list[ParamPlan],
        features: list[Tensor],  # [TENSOR_FEATURES] of each
    ) -> dict[str, Gates]:
        """Gates of each parameter on the graph."""
        row_gates = self.gate_bound * torch.tanh(self.row(embeddings)).unflatten(1, (2, BASIS))
        col_gates = self.gate_bound * torch.tanh(self.col(embeddings)).unflatten(1, (2, BASIS))
        no_columns = embeddings.new_zeros(embeddings.shape[1])
        pooled = []
        for plan, own in zip(plans, features, strict=True):
            cols = static.cols.get(plan.name)
            row_mean = embeddings[static.rows[plan.name]].mean(0)
            col_mean = embeddings[cols].mean(0) if cols is not None else no_columns
            pooled.append(torch.cat([own, row_mean, col_mean]))
        direct = self.tensor_direct(torch.stack(features))
        out = torch.tanh(direct + self.tensor_out(torch.tanh(self.tensor_in(torch.stack(pooled)))))
        bounds = out.new_tensor([self.gate_bound] * BASIS + [self.gain_bound])
        gates = {}
        for plan, tensor in zip(plans, out * bounds, strict=True):
            kind, cols = int(not plan.orthogonal), static.cols.get(plan.name)
            row = row_gates[static.rows[plan.name], kind].mT  # [BASIS, group * row]
            gates[plan.name] = Gates(tensor, row, None if cols is None else col_gates[cols, kind].mT)
        return gates
