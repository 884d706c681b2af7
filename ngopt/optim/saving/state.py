"""What `NGOptimizer` adds to a state dict, and how a loaded state is made its own again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ngopt.errors import CheckpointError
from ngopt.optim.attach.match import canonical_name, explain_difference, listing
from ngopt.optim.attach.names import generated, is_generated
from ngopt.optim.rule.direction import ParamState
from ngopt.optim.rule.update_rule import UpdateRule
from ngopt.optim.saving.checkpoint import config_from_json, config_to_json, parse_json_object, rule_from_tensors

ENTRY = "ngopt"
VERSION = 2
Layout = dict[int, dict[str, tuple[int, ...]]]  # place of a parameter -> entry of its state -> shape


@dataclass(frozen=True)
class ExtraState:
    """The entry ``"ngopt"`` of a state dict, parsed."""

    rule: UpdateRule
    shapes: dict[str, tuple[int, ...]]  # parameter name -> shape
    graph: dict[str, str]  # digests of its blocks, or empty
    layout: Layout
    skipped_steps: int


def pack_extra_state(extra: ExtraState) -> dict[str, Any]:
    """To tensors, numbers and strings, which ``torch.load(weights_only=True)`` reads back."""
    return {
        "version": VERSION,
        "config": config_to_json(extra.rule.config),
        "rule": {name: value.detach().cpu() for name, value in extra.rule.state_dict().items()},
        "shapes": json.dumps(extra.shapes),
        "graph": json.dumps(extra.graph),
        "layout": json.dumps(extra.layout),
        "skipped_steps": extra.skipped_steps,
    }


def unpack_extra_state(packed: Any) -> ExtraState:
    """Inverse of `pack_extra_state`, everything checked.

    Raises:
        CheckpointError: Written by another version, or damaged; the message names the entry.
    """
    if not isinstance(packed, Mapping):
        raise CheckpointError(f"{ENTRY!r} must be a dict, not {type(packed).__name__}.")
    if packed.get("version") != VERSION:
        raise CheckpointError(
            f"The state was saved in version {packed.get('version')!r} of ngopt's format; this ngopt reads {VERSION}."
        )
    if missing := [field.name for field in fields(ExtraState) if field.name not in packed]:
        raise CheckpointError(f"{ENTRY!r} has no {listing(missing)}.")
    shapes, graph, layout = (parse_json_object(f"{ENTRY}.{key}", packed[key]) for key in ("shapes", "graph", "layout"))
    skipped = packed["skipped_steps"]
    if type(skipped) is not int or skipped < 0:
        raise CheckpointError(f"{ENTRY}.skipped_steps={skipped!r} must be a whole number, not negative.")
    if not all(isinstance(digest, str) for digest in graph.values()):
        raise CheckpointError(f"{ENTRY}.graph must give a string for each block.")
    if not all(isinstance(own, dict) and place.isdecimal() for place, own in layout.items()):
        raise CheckpointError(f"{ENTRY}.layout must give the shapes of each parameter's state.")
    config = config_from_json(packed.get("config"))  # pyright: ignore[reportArgumentType]
    return ExtraState(
        rule=rule_from_tensors(config, packed["rule"], f"{ENTRY}.rule").requires_grad_(False),
        shapes={name: _shape(f"{ENTRY}.shapes", shape) for name, shape in shapes.items()},
        graph=graph,
        layout={
            int(place): {key: _shape(f"{ENTRY}.layout", shape) for key, shape in own.items()}
            for place, own in layout.items()
        },
        skipped_steps=skipped,
    )


def pack_text(extra: ExtraState) -> str:
    """What is not of a parameter, as one string: it travels in a group where only torch's two entries are kept."""
    return json.dumps(
        {
            "version": VERSION,
            "config": config_to_json(extra.rule.config),
            "rule": base64.b64encode(safetensors.torch.save(pack_extra_state(extra)["rule"])).decode(),
            "graph": json.dumps(extra.graph),
            "skipped_steps": extra.skipped_steps,
        }
    )


def unpack_text(text: Any) -> ExtraState:
    """Inverse of `pack_text`, with no shapes and no layout.

    Raises:
        CheckpointError: Written by another version, or damaged; the message names the entry.
    """
    packed = parse_json_object(ENTRY, text)
    try:
        rule = safetensors.torch.load(base64.b64decode(packed.get("rule", ""), validate=True))
    except (TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{ENTRY}.rule is damaged ({error}).") from error
    return unpack_extra_state({**packed, "rule": rule, "shapes": "{}", "layout": "{}"})


def _shape(where: str, sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise CheckpointError(f"{where}: {sizes!r} is not a shape.")
    return tuple(sizes)


def layout_of(params: Iterable[Tensor], state: Mapping[Tensor, Mapping[str, Any]]) -> Layout:
    """Shapes of all state, by the place of its parameter."""
    return {
        place: {key: tuple(value.shape) for key, value in state[param].items() if isinstance(value, Tensor)}
        for place, param in enumerate(params)
        if param in state
    }


def same_parameters(saved: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> str | None:
    """What differs between two models' parameters, in words, or None. Order counts: torch matches state by order.

    Names that wrappers add do not count, nor do names where one of the two optimizers was given none.
    """
    unnamed = any(all(map(is_generated, table)) for table in (saved, here))
    saved, here = (
        {generated(i) if unnamed else canonical_name(name): shape for i, (name, shape) in enumerate(table.items())}
        for table in (saved, here)
    )
    difference = explain_difference(saved, here, "shape")
    if difference is None and list(saved) != list(here):
        return f"the same parameters in another order, {listing(saved)} when saved and {listing(here)} here"
    return difference


def fit_state(old: Mapping[str, Tensor], fresh: ParamState) -> ParamState:
    """The old state in the form of the fresh one, in its dtype and on its device; the fresh one if it does not fit.

    Loading casts state to the parameter's dtype, a graph that arrives late adds entries, and a parameter that leaves
    the graph loses some; all of them keep their averages. Where an average has no place any more, the others start anew
    with it: counts and moments belong together. Before the first step there is nothing to keep, and the weights that
    the fresh state was made from may be newer: a checkpoint is often loaded between the constructor and the first step.
    """
    if "step" not in old or not bool(old["step"]):
        return fresh
    common = old.keys() & fresh.keys()
    fits = (common == old.keys() or common == fresh.keys()) and all(old[k].shape == fresh[k].shape for k in common)
    if not fits:
        return fresh
    kept = {key: old[key].detach().to(fresh[key].device, fresh[key].dtype, copy=True) for key in common}
    return {**fresh, **kept}


def restore(state: MutableMapping[Tensor, Any], groups: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]) -> None:
    """Copy a saved state once more, past torch's loading, which casts it to the dtype of the parameters.

    Args:
        state: State by parameter, to be filled.
        groups: The parameter groups that ``saved`` is for.
        saved: ``{"state": ..., "param_groups": ...}``, with numbers for parameters, in the order of the groups.
    """
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    params = dict(zip(numbers, (param for group in groups for param in group["params"]), strict=True))
    for number, entries in saved["state"].items():
        param = params[number]
        state[param] = {
            key: value.detach().to("cpu" if key == "step" else param.device, copy=True)
            if isinstance(value, Tensor)
            else value
            for key, value in entries.items()
        }
