"""Read sets of networks as others published them (DWS, NFN): a state dict per network, and a JSON file of splits.

    {"train": {"path": ["a.pth", ...], "label": [5, ...]}, "val": {...}, "test": {...}}

Paths are relative to the JSON file. Only tensors are read (`torch.load` with ``weights_only``): no pickled code runs.
"""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.inr_data.dataset import InrSet
from benchmarks.inr_data.plan import SPLITS
from benchmarks.inr_data.siren import OMEGA


def load_published(
    splits: Path | str, *, name: str = "mnist", height: int = 28, width: int = 28, omega: float = OMEGA
) -> dict[str, InrSet]:
    """Load a published set. Networks that are not finite are left out with a warning that names their files.

    Args:
        splits: The JSON file, or a folder that holds just one.
        name: Of the data set that the networks were fitted to.
        height: Of its images.
        width: Of its images.
        omega: See `Siren`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The splits are not as above, share files, or the networks differ in architecture.
    """
    path = _splits_file(Path(splits))
    table = _read_splits(path)
    expected: dict[str, tuple[int, ...]] = {}
    sets = {}
    for split in SPLITS:
        states, labels, bad = [], [], []
        for relative, label in zip(tqdm(table[split]["path"], desc=split), table[split]["label"], strict=True):
            state = _read_state(path.parent / relative)
            found = {key: tuple(tensor.shape) for key, tensor in state.items()}
            expected = expected or _checked_architecture(found, relative)
            if found != expected:
                raise ValueError(f"{relative} has another architecture, {found}, than the files before it: {expected}.")
            if all(bool(tensor.isfinite().all()) for tensor in state.values()):
                states.append(state)
                labels.append(label)
            else:
                bad.append(relative)
        if bad:
            warnings.warn(f"{path}: {len(bad)} networks are not finite and are left out: {bad}.", stacklevel=2)
        if not states:
            raise ValueError(f"{path}: split {split} has no network that is finite.")
        count = len(states)
        sets[split] = InrSet(
            params={key: torch.stack([state[key] for state in states]) for key in expected},
            labels=torch.tensor(labels, dtype=torch.int64),
            image_index=torch.full((count,), -1),
            psnr=torch.full((count,), torch.nan),
            height=height,
            width=width,
            channels=states[0][list(expected)[-1]].shape[0],
            name=name,
            split=split,
            omega=omega,
            copy=torch.zeros(count, dtype=torch.int64),
        )
    return sets


def _splits_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.json"))
    if len(found) != 1:
        raise FileNotFoundError(f"Expected a JSON file of splits at {path}, or one in this folder; found {len(found)}.")
    return found[0]


def _read_splits(path: Path) -> dict[str, dict[str, list[Any]]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    seen: dict[str, str] = {}
    for split in SPLITS:
        entry = table.get(split) if isinstance(table, dict) else None
        if not isinstance(entry, dict) or not {"path", "label"} <= entry.keys():
            raise ValueError(f'{path} has no split {split!r} of the form {{"path": [...], "label": [...]}}.')
        if len(entry["path"]) != len(entry["label"]):
            raise ValueError(f"{path}: {split} has {len(entry['path'])} paths and {len(entry['label'])} labels.")
        for one in entry["path"]:
            if one in seen:
                raise ValueError(f"{path}: {one} is in {seen[one]} and again in {split}.")
            seen[one] = split
        try:
            entry["label"] = [int(label) for label in entry["label"]]  # some write them as text
        except (TypeError, ValueError):
            wrong = next(label for label in entry["label"] if not str(label).isdigit())
            raise ValueError(f"{path}: {split} has a label {wrong!r}, expected whole numbers.") from None
    return table


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but the splits name it.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a state dict of tensors only: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} is not a state dict: expected tensors by name.")
    return {key: state[key].float() for key in sorted(state, key=_order)}


def _order(key: str) -> tuple[str, bool]:
    """Weights before biases, as modules have them; layers have one digit."""
    layer, _, kind = str(key).rpartition(".")
    return layer, kind != "weight"


def _checked_architecture(found: dict[str, tuple[int, ...]], file: str) -> dict[str, tuple[int, ...]]:
    """Layers that follow each other, from two coordinates, named as `Siren` names them."""
    width = 2
    for i in range(max(1, len(found) // 2)):
        weight, bias = found.get(f"seq.{i}.weight", ()), found.get(f"seq.{i}.bias", ())
        if len(weight) != 2 or weight[1] != width or bias != weight[:1]:
            raise ValueError(f"{file} is not a SIREN with parameters seq.0.weight [hidden, 2], ...: it has {found}.")
        width = weight[0]
    return found
