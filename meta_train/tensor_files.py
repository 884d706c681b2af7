"""Several groups of tensors in one file of `ngopt.tensor_files`, and the state of an optimizer as one of them."""

from __future__ import annotations

import torch

from ngopt.tensor_files import Tensors, read_tensors, write_tensors

__all__ = ["Tensors", "group", "load_optimizer", "optimizer_tensors", "prefixed", "read_tensors", "write_tensors"]


def prefixed(**groups: Tensors) -> Tensors:
    """Several groups of tensors as one."""
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}


def group(tensors: Tensors, name: str) -> Tensors:
    """One of the groups of `prefixed`."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """State of an optimizer, all of it tensors, by ``parameter.name``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Inverse of `optimizer_tensors`.

    Raises:
        ValueError: They are not of these parameters; the optimizer is as it was.
    """
    params = [p for param_group in optimizer.param_groups for p in param_group["params"]]
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or int(index) >= len(params):
            raise ValueError(f"the state of an optimizer has an entry {key!r}, which is of no parameter")
        if value.dim() and value.shape != params[int(index)].shape:
            raise ValueError(f"the state of an optimizer has {tuple(value.shape)} for {key!r}, which does not fit")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
