"""Which parameter is which block of the graph, and what differs when two do not fit."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ngopt.errors import GraphMismatchError
from ngopt.graph.neural_graph import NeuralGraph, ParamBlock
from ngopt.optim.attach.names import unique
from ngopt.optim.fast.stack import Cohorts
from ngopt.optim.rule.plan import ParamPlan, plan_new
from ngopt.optim.rule.update_rule import UpdateRule

LISTED = 8  # names shown in a message before "and 123 more"


def listing(names: Iterable[str]) -> str:
    """At most eight names, and how many more there are.

    >>> listing(["a", "b"])
    'a, b'
    """
    names = list(names)
    shown = ", ".join(names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def canonical_name(name: str) -> str:
    """A parameter's name in the unwrapped module: without what DistributedDataParallel and ``torch.compile`` add.

    >>> canonical_name("module._orig_mod.layers.0.weight")
    'layers.0.weight'
    """
    parts = name.split(".")
    start = next((i for i, part in enumerate(parts) if part not in ("module", "_orig_mod")), 0)
    return ".".join(part for part in parts[start:] if part != "_orig_mod")


def blocks_by_name(graph: NeuralGraph) -> dict[str, ParamBlock]:
    """Every name of every parameter on the graph, tied ones under each of their names."""
    return {name: block for block in graph.blocks for name in (block.name, *block.aliases)}


def find_block(name: str, blocks: Mapping[str, ParamBlock]) -> ParamBlock | None:
    """The block of a parameter by its name, with or without the prefixes that wrappers add."""
    return blocks.get(name) or blocks.get(canonical_name(name))


@dataclass(frozen=True)
class Partition:
    """One device's partition of a step: what `ngopt.optim.update.update_` is called with."""

    device: torch.device
    graph: NeuralGraph | None
    rule: UpdateRule
    readable: dict[str, Tensor]  # every weight on this device's graph, to be updated or only read
    params: dict[str, tuple[int, Tensor]]  # weights to be updated: name on the graph -> (index of its group, tensor)
    cohorts: Cohorts = field(default_factory=Cohorts)  # how they are stepped together

    def plans(self, state: Mapping[Tensor, Mapping[str, Tensor]]) -> dict[str, ParamPlan]:
        """How each weight is stepped; what has begun goes on as it is.

        Args:
            state: Of an optimizer, by parameter.
        """
        shapes = {name: tuple(param.shape) for name, (_, param) in self.params.items()}
        begun = {
            name: state[param]
            for name, (_, param) in self.params.items()
            if "step" in state.get(param, {}) and bool(state[param]["step"])
        }
        return plan_new(self.graph, shapes, begun, self.rule.config)


def partition_by_device(
    groups: Sequence[Mapping[str, Any]],  # param_groups of an optimizer, with "param_names"
    graph: NeuralGraph | None,
    named: Mapping[str, Tensor],
    rule: UpdateRule,
    strict: bool = True,
) -> tuple[list[Partition], list[str]]:
    """Match parameters with the blocks of the graph, one partition per device.

    A parameter is found by identity where the model's own names are known, and by its name in the group otherwise.

    Args:
        groups: Parameter groups.
        graph: The graph, or None.
        named: The model's parameters by name; empty if no model is known.
        rule: The meta-parameters.
        strict: Whether a graph that does not fit is an error; otherwise what does not fit is on no graph.

    Returns:
        The partitions, and the names of the parameters that are on no graph.

    Raises:
        GraphMismatchError: If ``strict``: a parameter does not have the shape that the graph says, or none is on it.
    """
    blocks = blocks_by_name(graph) if graph is not None else {}
    own_names = {id(tensor): name for name, tensor in named.items()}
    params: dict[str, tuple[int, Tensor]] = {}
    off_graph, wrong, taken = [], [], set(blocks)
    for index, group in enumerate(groups):
        for tensor, name in zip(group["params"], group["param_names"], strict=True):
            if is_lazy(tensor) or tensor.numel() == 0:
                continue
            known = own_names.get(id(tensor)) if named else name
            block = find_block(known, blocks) if known is not None else None
            fits = block is not None and tuple(tensor.shape) == tuple(block.shape)
            if block is not None and not fits:
                wrong.append(f"{name}: parameter {tuple(tensor.shape)}, graph {tuple(block.shape)}")
            if block is None or not fits or (block.name in params and params[block.name][1] is not tensor):
                off_graph.append(name)
                key = unique(name, taken)
                taken.add(key)
                params[key] = (index, tensor)
            else:
                params[block.name] = (index, tensor)
    if wrong and strict:
        raise GraphMismatchError(
            f"The graph was traced from another model: {listing(wrong)}. Trace the model that is being trained."
        )
    if strict and graph is not None and params and len(off_graph) == len(params):
        raise GraphMismatchError(
            f"No parameter is on the graph. Parameters: {listing(off_graph)}. Graph: {listing(blocks)}. "
            "Pass model.named_parameters() of the model that was traced."
        )
    readable = {key: tensor for key, (_, tensor) in params.items() if tensor.is_floating_point()}
    for block in graph.blocks if graph is not None else ():
        own = next((named[n] for n in (block.name, *block.aliases) if n in named), None)
        if own is not None and own.is_floating_point() and tuple(own.shape) == tuple(block.shape):
            readable.setdefault(block.name, own)
    readable = _affordable(readable)
    return [
        Partition(
            device,
            restrict(graph, here, device) if graph is not None else None,
            rule if device.type == "cpu" else _moved(rule, device),
            here,
            {key: entry for key, entry in params.items() if entry[1].device == device},
        )
        for device in dict.fromkeys(tensor.device for _, tensor in params.values())
        if (here := {key: tensor for key, tensor in readable.items() if tensor.device == device})
    ], off_graph


def _moved(rule: UpdateRule, device: torch.device) -> UpdateRule:
    """A copy on a device, but for the schedule: it is a number that the host asks for, and must not wait for a GPU."""
    moved = copy.deepcopy(rule)
    for name, part in moved.named_children():
        if name != "schedule":
            part.to(device)
    return moved


def _affordable(readable: dict[str, Tensor]) -> dict[str, Tensor]:
    """All weights, or those that are trained where these are the smaller part: reading costs what training does.

    Adapters on a frozen base (LoRA) hold a hundredth of the weights, and a step must not read the other ninety-nine.
    """
    trained = {key: tensor for key, tensor in readable.items() if tensor.requires_grad}
    frozen = sum(tensor.numel() for key, tensor in readable.items() if key not in trained)
    return trained if trained and frozen > sum(t.numel() for t in trained.values()) else readable


def restrict(graph: NeuralGraph, names: Iterable[str], device: torch.device) -> NeuralGraph:
    """The graph of the named blocks only, with its index tensors on ``device``; nodes keep their numbers."""
    keep = set(names)
    if all(block.name in keep and block.row_nodes.device == device for block in graph.blocks):
        return graph  # the same object, for which much is cached elsewhere
    blocks = tuple(block.to(device) for block in graph.blocks if block.name in keep)
    return dataclasses.replace(graph, blocks=blocks, links=graph.links.to(device))


def block_digests(graph: NeuralGraph) -> dict[str, str]:
    """A short digest of each block's place: its matrix view, role, use, and the node groups at its rows and columns.

    Two graphs with equal digests give the same steps. They are kept beside an optimizer's state, and are not
    `NeuralGraph.fingerprint`, which is one hash of the whole function: a message can name the layer that differs, and a
    change in one layer does not show in the others, since node numbers count from the start of their group.
    """
    starts = torch.tensor([group.start for group in graph.groups] or [0])

    def place(nodes: Tensor | None) -> list:
        if nodes is None:
            return []
        nodes = nodes.cpu()
        which = torch.searchsorted(starts, nodes.flatten().contiguous(), right=True) - 1
        groups = [graph.groups[i] for i in which.unique().tolist()]
        described = [(g.size, g.kind, g.frozen, g.activations) for g in groups]
        relative = (nodes.flatten() - starts[which]).contiguous()
        return [described, hashlib.sha256(relative.numpy().tobytes()).hexdigest()]

    def digest(block: ParamBlock) -> str:
        described = (block.shape, block.matrix_shape, block.perm, block.role, block.attributes)
        return hashlib.sha256(repr((described, place(block.row_nodes), place(block.col_nodes))).encode()).hexdigest()[
            :12
        ]

    return {block.name: digest(block) for block in graph.blocks}


def explain_difference(saved: Mapping[str, object], current: Mapping[str, object], what: str) -> str | None:
    """A sentence that names what differs between two named tables, or None if nothing does."""
    parts = []
    if missing := [name for name in saved if name not in current]:
        parts.append(f"only in the saved state: {listing(missing)}")
    if added := [name for name in current if name not in saved]:
        parts.append(f"only in this model: {listing(added)}")
    if changed := [name for name in saved if name in current and saved[name] != current[name]]:
        shown = [f"{name} ({what} {saved[name]} saved, {current[name]} here)" for name in changed]
        parts.append(f"different {what}: {listing(shown)}")
    return "; ".join(parts) or None
