"""What the rule says of each tensor: a gain, and how far its direction is normalised. Read off its neurons and itself.

Both are zero before anything is learned, which is the hand-made rule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ngopt.encoder.structure import Structure
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.plan import RELATIVE_ROLES, ParamPlan

LOG_GAIN, EXPONENT = 0, 1
CONTROLS = 2
TENSOR_FEATURES = 21
HIDDEN = 16
FLOOR = 0.02  # least root mean square that a direction is taken to have when it is normalised


def tensor_features(
    plan: ParamPlan,
    weight: Tensor,
    gradient: Tensor,
    momentum: Tensor,
    initial_rms: Tensor,
    static: Structure,
    step: int,
    total_steps: int | None,
    dtype: torch.dtype,
) -> Tensor:  # [TENSOR_FEATURES]
    """What is known of one parameter, besides its neurons. Independent of the scale of the loss.

    The size of the weights, now and at first, in units of what keeps signals at their size, says how far a step
    carries: a network that multiplies its inputs by 30 (SIREN) has small weights, and wants small steps.

    Args:
        plan: Of the parameter.
        weight: In the matrix view, as the next two.
        gradient: In units, as the momentum; see `ngopt.optim.rule.direction`.
        momentum: Average of the gradients.
        initial_rms: Root mean square of the initial weights, ``[]``.
        static: Of the graph.
        step: Steps made so far.
        total_steps: Length of the run, or None.
        dtype: Of the features.
    """
    w, g, m = (x.to(dtype).flatten() for x in (weight, gradient, momentum))
    w_norm, g_norm, m_norm = (torch.linalg.vector_norm(x) + 1e-12 for x in (w, g, m))
    _, row, col, tap = plan.matrix_shape
    is_edge = plan.block is not None and plan.block.is_edge
    constants = (
        math.log(row) / 5,
        math.log(col) / 5,
        math.log(tap) / 2,
        float(bool(plan.sides)),
        float(is_edge),
        float(plan.role == "scale"),
        float(plan.role in RELATIVE_ROLES),
        float(plan.name in static.outputs),
        float(plan.name in static.inputs),
        float(any(side.blocks > 1 for side in plan.sides)),
        math.log(static.depth.get(plan.name, 1)) - 1.5,
        math.log1p(step) / 5,
        0.0 if total_steps is None else min(1.0, step / total_steps),
        float(total_steps is None),
        0.0 if total_steps is None else math.log10(total_steps) - 3.0,
    )
    unit_size = math.sqrt(plan.fan_in)  # of weights that keep signals at their size
    measured = torch.stack(
        [
            torch.dot(g, m) / (g_norm * m_norm),
            torch.dot(g, w) / (g_norm * w_norm),
            torch.dot(m, w) / (m_norm * w_norm),
            torch.tanh(torch.log(m_norm / g_norm)),
            torch.tanh(0.5 * torch.log(w_norm * unit_size / math.sqrt(len(w)))),
            torch.tanh(0.5 * torch.log(initial_rms.to(dtype) * unit_size + 1e-12)),
        ]
    )
    return torch.cat([measured, torch.tensor(constants, dtype=dtype).to(measured.device, non_blocking=True)])


class ControlHeads(nn.Module):
    """Reads controls off the features of each tensor and the mean embeddings of the neurons at its rows and columns.

    Args:
        config: Widths and bounds.
    """

    def __init__(self, config: UpdateConfig) -> None:
        super().__init__()
        self.bounds = (config.gain_bound, config.exponent_bound)
        self.hidden = nn.Linear(TENSOR_FEATURES + 2 * config.embedding, HIDDEN)
        self.read = nn.Linear(HIDDEN, CONTROLS)
        # Kind, size and depth of a tensor decide much by themselves: a direct way makes them quick to learn.
        self.direct = nn.Linear(TENSOR_FEATURES, CONTROLS, bias=False)
        for layer in (self.read, self.direct):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.read.bias)
        with torch.no_grad():  # what neurons say about their tensors is noise before it is learned
            self.hidden.weight[:, TENSOR_FEATURES:] = 0.0

    def neutral(self) -> bool:
        """Whether all controls are zero whatever the features."""
        return not any(bool(p.any()) for layer in (self.read, self.direct) for p in layer.parameters())

    def forward(
        self,
        embeddings: Tensor,  # [node, embedding]
        static: Structure,
        plans: list[ParamPlan],
        features: list[Tensor],  # [TENSOR_FEATURES] of each
    ) -> dict[str, Tensor]:  # [CONTROLS] each
        """Controls of each parameter on the graph: the logarithm of its gain, and its exponent."""
        no_columns = embeddings.new_zeros(embeddings.shape[1])
        pooled = []
        for plan, own in zip(plans, features, strict=True):
            cols = static.cols.get(plan.name)
            row_mean = embeddings[static.rows[plan.name]].mean(0)
            col_mean = embeddings[cols].mean(0) if cols is not None else no_columns
            pooled.append(torch.cat([own, row_mean, col_mean]))
        said = self.direct(torch.stack(features)) + self.read(torch.tanh(self.hidden(torch.stack(pooled))))
        controls = torch.tanh(said) * torch.tensor(self.bounds, dtype=said.dtype).to(said.device, non_blocking=True)
        return {plan.name: own for plan, own in zip(plans, controls, strict=True)}
