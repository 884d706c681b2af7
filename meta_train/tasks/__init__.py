"""Families of tasks: those to meta-train on, and those to choose checkpoints by. Importing this registers them all."""

from meta_train.tasks import (
    autoencoder,
    cnn,
    language,
    mlp,
    recurrent,
    siren,
    tabular,
    validation,
    validation_text,
    vit,
)
from meta_train.tasks.base import FAMILIES, Batch, Task, Weights
from meta_train.tasks.registry import TaskError, draw

VALIDATION = tuple(sorted(name for name in FAMILIES if name.startswith("validation-")))
TRAINING = tuple(sorted(name for name in FAMILIES if not name.startswith("validation-")))

__all__ = [
    "FAMILIES",
    "TRAINING",
    "VALIDATION",
    "Batch",
    "Task",
    "TaskError",
    "Weights",
    "autoencoder",
    "cnn",
    "draw",
    "language",
    "mlp",
    "recurrent",
    "siren",
    "tabular",
    "validation",
    "validation_text",
    "vit",
]
