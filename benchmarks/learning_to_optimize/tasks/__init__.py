"""Tasks by name: the setting of the papers, and a held-out suite, none of which meta-training ever draws."""

from benchmarks.learning_to_optimize.tasks import (  # noqa: F401  (importing registers)
    autoencoder,
    deep_mlp,
    digits,
    mixer,
    paper,
    recurrent,
    resnet,
    sets,
    siren,
    tabular,
    transformers,
    vgg,
)
from benchmarks.learning_to_optimize.tasks.base import GROUPS, TASKS, Data, Part, Task, choose

__all__ = ["GROUPS", "TASKS", "Data", "Part", "Task", "choose"]
