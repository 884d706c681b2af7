"""The model card of a checkpoint, from what the run knows."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

import ngopt
from meta_train.config import RunConfig
from meta_train.trainer import Progress
from ngopt.optim.saving.checkpoint import read_card

DATA = {
    "mnist": "MNIST and Fashion-MNIST, the first 50,000 training images of each, at 8 x 8 to 28 x 28 pixels",
    "text": "the text of Python's pydoc topics",
    "tables": "scikit-learn's diabetes and linnerud tables",
}
STARTED_FROM = ("kind", "outer_steps", "inner_steps", "cpu_hours", "gpu_hours", "selected")
TEXT_FAMILIES, TABLE_FAMILIES = ("language", "recurrent"), ("tabular",)


def make_card(config: RunConfig, progress: Progress, command: Sequence[str]) -> dict[str, Any]:
    """What a user of the checkpoint should know, as JSON values."""
    families = sorted({name for slot in config.slots for name in slot.families})
    data = [DATA["text"]] if set(families) & set(TEXT_FAMILIES) else []
    data += [DATA["tables"]] if set(families) & set(TABLE_FAMILIES) else []
    data += [DATA["mnist"]] if set(families) - set(TEXT_FAMILIES) - set(TABLE_FAMILIES) else []
    earlier = read_card(config.init) if config.init else {}
    horizons = [h for slot in config.slots for h in slot.horizon]
    return {
        "status": "meta-trained",
        "kind": config.kind if config.rule.messages else f"{config.kind}, without messages between neurons",
        "made_by": " && ".join([*([earlier["made_by"]] if earlier else []), " ".join(command)]),
        "tasks": ", ".join(families),
        "training_data": "; ".join(sorted(data)) + ". No test set, no CIFAR-10",
        "horizons": f"{min(horizons)} to {max(horizons)} steps",
        "outer_steps": config.iterations,
        "inner_steps": progress.steps,
        "cpu_hours": round(progress.cpu_seconds / 3600, 2),
        "gpu_hours": round(progress.gpu_seconds / 3600, 2),
        **({"started_from": {key: earlier.get(key) for key in STARTED_FROM}} if earlier else {}),
        "seed": config.seed,
        "selected": f"iteration {progress.best_iteration}, {progress.best_strength:g} of the learned deviation, by "
        f"final training loss on {', '.join(config.evaluation.families)}, which are never trained on",
        "validation": [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()} for entry in progress.best_table
        ],
        "dropped_optimizees": progress.dropped,
        "skipped_tasks": len(progress.skipped_tasks),
        "versions": f"ngopt {ngopt.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "licence": "MIT",
        "limits": "Meta-trained on networks of at most some 100,000 parameters and runs of at most the horizons above; "
        + (
            "nothing bounds its steps elsewhere."
            if config.kind == "feed_forward"
            else "the learned deviation is bounded, so that elsewhere it stays near the hand-made rule."
        ),
    }
