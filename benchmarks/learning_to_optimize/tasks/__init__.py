"""Tasks by name: the setting of the papers, and two suites, none of which meta-training ever draws."""

from benchmarks.learning_to_optimize.tasks import (  # noqa: F401  (importing registers)
    autoencoder,
    burgers,
    deep_mlp,
    digits,
    elevation,
    graphs,
    letters,
    mixer,
    paper,
    pronunciation,
    recurrent,
    resnet,
    sets,
    siren,
    tabular,
    transformers,
    vae,
    vgg,
)
from benchmarks.learning_to_optimize.tasks.base import GROUPS, SUITES, TASKS, Data, Part, Task, choose

__all__ = ["GROUPS", "SUITES", "TASKS", "Data", "Part", "Task", "choose"]
