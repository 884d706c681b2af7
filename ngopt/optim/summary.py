"""What an optimizer knows of each parameter: as a table for people, and as curves for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ngopt.graph.export import table
from ngopt.graph.sharding import local
from ngopt.optim.attach.match import Partition
from ngopt.optim.attach.options import SHARED
from ngopt.optim.rule.controls import EXPONENT, LOG_GAIN
from ngopt.optim.rule.plan import ParamPlan
from ngopt.optim.rule.scale import step_scale


@dataclass(frozen=True)
class ParamSummary:
    """One parameter.

    Of a parameter that is sharded and stepped by another rank, this one does not know what is learned and measured.

    Attributes:
        name: On the graph, or in its group if it is on none.
        shape: Of the tensor.
        on_graph: Whether it has a place on the neural graph.
        role: As in `ngopt.graph.neural_graph.ParamBlock`; ``"weight"`` or ``"vector"`` on no graph.
        view: The matrix view that is stepped, ``(group, row, col, tap)``.
        bases: Sides that have an eigenbasis, with the number and size of their blocks: ``{"row": (2, 256), ...}``.
            Empty for a parameter that is stepped entry by entry, as by Adam.
        scale: Root mean square of the first steps at ``lr=1``, before schedule and gain, where the direction's is one.
        steps: Steps that it has made.
        gain: What the rule says of it; 1 before anything is learned or said.
        exponent: How far the rule normalises its direction, from 0 (not at all) to 1.
        update_to_weight: Norm of the last measured step, relative to that of the weight; None if none was measured.
    """

    name: str
    shape: tuple[int, ...]
    on_graph: bool
    role: str
    view: tuple[int, int, int, int]
    bases: Mapping[str, tuple[int, int]]
    scale: float
    steps: int
    gain: float
    exponent: float
    update_to_weight: float | None


def summarise(
    partitions: Iterable[Partition], state: Mapping[Tensor, Mapping[str, Tensor]], measured: Mapping[str, float]
) -> list[ParamSummary]:
    """All parameters of an optimizer, in its order.

    Args:
        partitions: Its partitions of the graph.
        state: Its state by parameter.
        measured: Update-to-weight ratios by name.
    """
    found = []
    for partition in partitions:
        plans = partition.plans(state)
        for name, (index, param) in partition.params.items():
            row = _summarise_one(plans[name], param, state.get(param, {}), partition, measured.get(name))
            found.append((index, row))
    return [row for _, row in sorted(found, key=lambda entry: entry[0])]


def _summarise_one(
    plan: ParamPlan, param: Tensor, own: Mapping[str, Tensor], partition: Partition, ratio: float | None
) -> ParamSummary:
    config, steps = partition.rule.config, int(own["step"]) if own else 0
    own = own if "initial_rms" in own else {}  # what another rank steps, it alone knows
    size = float(step_scale(plan, config, own["initial_rms"] if own else 0.0)) * config.step_size
    guard = float(own["guard"]) if own and float(own["step"]) else 1.0  # the first step finds it
    said = own.get("controls")
    return ParamSummary(
        name=plan.name,
        shape=tuple(param.shape),
        on_graph=plan.block is not None,
        role=plan.role,
        view=plan.matrix_shape,
        bases={side.name: (side.blocks, side.size) for side in plan.sides},
        scale=guard * size,
        steps=steps,
        gain=1.0 if said is None else math.exp(float(said[LOG_GAIN])),
        exponent=0.0 if said is None else float(said[EXPONENT]),
        update_to_weight=ratio,
    )


def as_table(rows: list[ParamSummary], headline: str) -> str:
    """The summary that people read."""
    cells = [
        (
            row.name if row.on_graph else f"{row.name} *",
            _times(row.shape) or "scalar",
            row.role,
            _times(row.view),
            " ".join(f"{side} {_blocks(*size)}" for side, size in row.bases.items()) or "entry by entry",
            f"{row.scale:.2g}",
            f"{row.gain:.2f}",
            f"{row.exponent:.2f}",
            "-" if row.update_to_weight is None else f"{row.update_to_weight:.1e}",
            str(row.steps),
        )
        for row in rows
    ]
    head = ("parameter", "shape", "role", "group x row x col x tap", "eigenbases", "scale", "gain", "exponent")
    off = [row.name for row in rows if not row.on_graph]
    note = [f"* on no neural graph ({len(off)}): the per-tensor rule."] if off else []
    return "\n".join([headline, "", *table((*head, "update/weight", "steps"), cells), *note])


def short_form(name: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """An optimizer as Python prints it: what all groups share, then a line for each, without its parameters."""
    lines = []
    for group in groups:
        entries = sum(param.numel() for param in group["params"] if not is_lazy(param))
        options = ", ".join(f"{option}={group[option]!r}" for option in ("lr", "weight_decay", "maximize"))
        lines.append(f"  {len(group['params'])} parameters, {entries:,} entries: {options}")
    shared = ", ".join(f"{option}={groups[0][option]!r}" for option in SHARED)
    return "\n".join([f"{name}({shared}", *lines, ")"])


def write_scalars(writer: Any, step: int, rows: list[ParamSummary], skipped_steps: int) -> None:
    """Write to a ``SummaryWriter``: curves per parameter, and one for the steps that were skipped."""
    for row in rows:
        writer.add_scalar(f"gain/{row.name}", row.gain, step)
        if row.update_to_weight is not None:
            writer.add_scalar(f"update_to_weight/{row.name}", row.update_to_weight, step)
    writer.add_scalar("optimizer/skipped_steps", skipped_steps, step)
    writer.add_scalar("optimizer/parameters_off_graph", sum(not row.on_graph for row in rows), step)


def copies_of(partitions: Iterable[Partition], names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of weights, for `ratios`: of what is here, where they are sharded."""
    wanted = set(names)
    return {
        key: local(p.detach()).clone()
        for partition in partitions
        for key, (_, p) in partition.params.items()
        if key in wanted
    }


def ratios(partitions: Iterable[Partition], before: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of the change of each weight, relative to the norm that it had; infinite for a weight that was zero."""
    found = {}
    for partition in partitions:
        for key, (_, param) in partition.params.items():
            if key in before:
                old, new = before[key].double(), local(param.detach()).double()
                change, size = torch.linalg.vector_norm(new - old), torch.linalg.vector_norm(old)
                found[key] = (change / size).item() if change else 0.0
    return found


def _times(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def _blocks(count: int, size: int) -> str:
    return str(size) if count == 1 else f"{count}*{size}"
