"""Where a run stands, in one file: tensors as safetensors, everything else as JSON in its header. Never pickle.

One file, renamed into place, is whole at any moment: model, best model and optimizer can never be of different steps.
Random numbers need no state: the order of an epoch, and augmentation and dropout of a step, come from generators that
are seeded with the run's seed and the number of that epoch or step.
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


def write_tensors(path: Path, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write tensors and header so that whoever reads the file, at any time, finds it whole."""
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    temporary = path.with_name(f".{path.name}.part")  # what a killed process left there is written over
    with temporary.open("wb") as file:
        file.write(save(plain, metadata={HEADER: json.dumps(header)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
