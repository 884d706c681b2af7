"""Read the small CNN zoo as it was published (Unterthiner et al., 2020, arXiv:2002.11448).

A folder has ``weights.npy`` [net, 4970], ``metrics.csv.gz`` with a row for each network, and ``layout.csv``, which says
which columns of the weights are which variable: ``varname`` (ends in ``kernel:0`` or ``bias:0``), ``start_idx``,
``end_idx`` and ``shape``. Kernels are as Keras has them: height, width, in, out.
"""

from __future__ import annotations

import ast
import csv
import gzip
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.cnn_zoo.architecture import small_cnn
from benchmarks.cnn_zoo.bucket import Bucket, param_shapes
from benchmarks.cnn_zoo.plan import ACTIVATIONS, PATTERN, SPLITS

LAYERS = ("convs.0", "convs.1", "convs.2", "head")
FINAL = 86  # epochs


def load_published(
    place: Path | str, *, side: int = 32, activations: tuple[str, ...] = ACTIVATIONS, step: int | None = FINAL
) -> dict[str, list[Bucket]]:
    """Load a published zoo, as `benchmarks.cnn_zoo.load` does. Networks that are not finite are left out and counted.

    Runs are split 5 : 1 : 2 into train, val and test, by their order in the file; this is not a published split.

    Args:
        place: The folder with the three files.
        side: Pixels of the images: 28 for MNIST and Fashion-MNIST, 32 for CIFAR-10 and SVHN.
        activations: Which networks to take.
        step: Which checkpoint of each run to take, in epochs; None: all.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files do not belong together, or are not as above.
    """
    place = Path(place)
    for name in ("weights.npy", "metrics.csv.gz", "layout.csv"):
        if not (place / name).is_file():
            raise FileNotFoundError(f"{place / name} is missing. A published zoo has weights, metrics and a layout.")
    weights = np.load(place / "weights.npy", mmap_mode="r", allow_pickle=False)
    rows = _rows(place / "metrics.csv.gz")
    if len(rows) != len(weights):
        raise ValueError(f"{place} has {len(weights)} rows of weights, but {len(rows)} of metrics.")
    runs = {name: number for number, name in enumerate(dict.fromkeys(_run(row) for row in rows))}
    layout = _layout(place / "layout.csv")
    found: dict[str, list[Bucket]] = {split: [] for split in SPLITS}
    left_out = 0
    for activation in activations:
        take = [
            i
            for i, row in enumerate(rows)
            if row["config.activation"] == activation and (step is None or int(row["step"]) == step)
        ]
        bucket = Bucket(
            small_cnn(activation, side),
            _params(np.asarray(weights[take], dtype=np.float32), layout),
            *(torch.tensor([float(rows[i][name]) for i in take]) for name in ("test_accuracy", "test_loss")),
            torch.tensor([runs[_run(rows[i])] for i in take], dtype=torch.int64),
            torch.tensor([int(rows[i]["step"]) for i in take], dtype=torch.int64),
        )
        left_out += int((~bucket.finite()).sum())
        bucket = bucket.subset(bucket.finite())
        for split in SPLITS:
            index = torch.tensor(
                [PATTERN[run % len(PATTERN)] == split for run in bucket.run.tolist()], dtype=torch.bool
            )
            found[split] += [bucket.subset(index)] if index.any() else []
    if left_out:
        warnings.warn(f"{place}: {left_out} networks are not finite and are left out.", stacklevel=2)
    if empty := [split for split, buckets in found.items() if not buckets]:
        raise ValueError(f"{place} has no networks of step {step} for {', '.join(empty)}.")
    return found


def _run(row: dict[str, str]) -> str:
    """All checkpoints of a run have one folder: the last part of ``modeldir`` is the checkpoint, or it is the run."""
    head, _, tail = row["modeldir"].rstrip("/").rpartition("/")
    return head if "ckpt" in tail else row["modeldir"]


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"config.activation", "modeldir", "step", "test_accuracy", "test_loss"} - (
        rows[0].keys() if rows else set()
    )
    if missing:
        raise ValueError(f"{path} lacks the columns {sorted(missing)}.")
    return rows


def _layout(path: Path) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """For each of our parameters: first column, last column plus one, and Keras's shape."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for kind, ours in (("kernel:0", "weight"), ("bias:0", "bias")):
        of_kind = sorted(
            (int(row["start_idx"]), int(row["end_idx"]), ast.literal_eval(row["shape"]))
            for row in rows
            if row["varname"].endswith(kind)
        )
        found |= {f"{layer}.{ours}": entry for layer, entry in zip(LAYERS, of_kind, strict=False)}
    expected = param_shapes(small_cnn("relu", 32))
    shapes = {
        name: shape[::-1] if len(shape) < 4 else (shape[3], shape[2], *shape[:2]) for name, (*_, shape) in found.items()
    }
    if shapes != expected or len(rows) != len(expected):
        raise ValueError(f"{path} is not the layout of a 1-16-16-16-10 CNN: it has {shapes}.")
    return found


def _params(weights: np.ndarray, layout: dict[str, tuple[int, int, tuple[int, ...]]]) -> dict[str, Tensor]:
    params = {}
    for name in param_shapes(small_cnn("relu", 32)):
        start, end, shape = layout[name]
        tensor = torch.from_numpy(weights[:, start:end].copy()).unflatten(1, shape)
        axes = {4: (0, 4, 3, 1, 2), 2: (0, 2, 1), 1: (0, 1)}[len(shape)]
        params[name] = tensor.permute(axes).contiguous()
    return params
