"""Files that are whole at any moment: tensors as safetensors, everything else as JSON in the header. Never pickle.

What is of one step goes into one file: a kill can then never leave tensors of different steps.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

HEADER = "header"
Tensors = dict[str, Tensor]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it, at any time, finds what was there or what should be, never half of it."""
    temporary = path.with_name(f".{path.name}.part")  # what a killed process left there is written over
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_tensors(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write tensors and header, as `write_whole` does."""
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    write_whole(path, save(plain, metadata={HEADER: json.dumps(header)}))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and header of a file of `write_tensors`."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[HEADER])


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
    """Inverse of `optimizer_tensors`."""
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
