"""What `NGOptimizer` adds to a state dict, and how a loaded state is made its own again."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ngopt.errors import GraphMismatchError
from ngopt.graph.neural_graph import NeuralGraph
from ngopt.optim.checkpoint import config_from_json, config_to_json
from ngopt.optim.match import canonical_name, explain_difference, fingerprint, listing
from ngopt.optim.update import ParamState, UpdateRule

ENTRY = "ngopt"
VERSION = 1


@dataclass(frozen=True)
class Extra:
    """The entry ``"ngopt"`` of a state dict, parsed."""

    rule: UpdateRule
    shapes: dict[str, tuple[int, ...]]  # parameter name -> shape
    graph: dict[str, str]  # fingerprint of the graph, or empty
    skipped_steps: int


def pack_extra(extra: Extra) -> dict[str, Any]:
    """To tensors, numbers and strings, which ``torch.load(weights_only=True)`` reads back."""
    return {
        "version": VERSION,
        "config": config_to_json(extra.rule.config),
        "rule": {name: value.detach().cpu() for name, value in extra.rule.state_dict().items()},
        "shapes": json.dumps({name: list(shape) for name, shape in extra.shapes.items()}),
        "graph": json.dumps(extra.graph),
        "skipped_steps": extra.skipped_steps,
    }


def unpack_extra(packed: Mapping[str, Any]) -> Extra:
    """Inverse of `pack_extra`.

    Raises:
        GraphMismatchError: Written by another version, or its meta-parameters do not fit its settings.
        CheckpointError: Its settings do not fit this version.
    """
    if packed.get("version") != VERSION:
        raise GraphMismatchError(
            f"The state was saved in version {packed.get('version')!r} of ngopt's format; this ngopt reads {VERSION}."
        )
    rule = UpdateRule(config_from_json(packed["config"])).to(next(iter(packed["rule"].values())).dtype)
    try:
        rule.load_state_dict(packed["rule"])
    except RuntimeError as error:
        raise GraphMismatchError(f"The saved meta-parameters do not fit their settings: {error}") from error
    shapes = {name: tuple(shape) for name, shape in json.loads(packed["shapes"]).items()}
    return Extra(rule.requires_grad_(False), shapes, json.loads(packed["graph"]), packed["skipped_steps"])


def same_parameters(saved: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> str | None:
    """What differs between two models' parameters, in words, or None. Order counts: torch matches state by order.

    Names that wrappers add do not count, nor do names where one of the two optimizers was given none.
    """
    unnamed = any(all(name == f"param.{i}" for i, name in enumerate(table)) for table in (saved, here))
    saved, here = (
        {f"param.{i}" if unnamed else canonical_name(name): shape for i, (name, shape) in enumerate(table.items())}
        for table in (saved, here)
    )
    difference = explain_difference(saved, here, "shape")
    if difference is None and list(saved) != list(here):
        return f"the same parameters in another order, {listing(saved)} when saved and {listing(here)} here"
    return difference


def fit_state(old: Mapping[str, Tensor], fresh: ParamState) -> ParamState:
    """The fresh state with every entry of the old one that has its place there: dtype and device are the fresh one's.

    Loading casts state to the parameter's dtype, and a graph that arrives late adds entries; both end here.
    """
    fitted = dict(fresh)
    for name, value in fresh.items():
        kept = old.get(name)
        if isinstance(kept, Tensor) and kept.shape == value.shape:
            fitted[name] = kept.detach().to(value.device, value.dtype, copy=True)
    return fitted


def check_loadable(extra: Extra | None, shapes: Mapping[str, tuple[int, ...]], graph: NeuralGraph | None) -> None:
    """Check that a saved state belongs to these parameters and, where it is known already, to this graph.

    A state without an entry of ours (torch.distributed.checkpoint keeps torch's two only) is taken at its word.

    Raises:
        GraphMismatchError: It does not; the message names what differs.
    """
    if extra is None:
        return
    difference = same_parameters(extra.shapes, shapes)
    if difference is None and extra.graph and graph is not None:
        difference = explain_difference(extra.graph, fingerprint(graph), "place on the graph")
    if difference is not None:
        raise GraphMismatchError(f"The state belongs to another model: {difference}. Load it into the same model.")


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
