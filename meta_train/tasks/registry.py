"""Draw a task of a family by name."""

from __future__ import annotations

import torch

from meta_train.tasks.base import FAMILIES, Task
from ngopt.errors import NGOptError


class TaskError(NGOptError, RuntimeError):
    """A task could not be built; the message names family and seed."""


def draw(name: str, seed: int) -> Task:
    """The task of a family that belongs to a seed; torch's global generator is left as it was.

    Raises:
        ValueError: No such family.
        ImportError: A package that the family needs is not installed.
        OSError: Files that the family needs are missing.
        TaskError: Building the task failed.
    """
    if name not in FAMILIES:
        raise ValueError(f"There is no task family {name!r}; these are known: {', '.join(sorted(FAMILIES))}.")
    try:
        with torch.random.fork_rng(devices=[]):
            return FAMILIES[name](torch.Generator().manual_seed(seed))
    except (ImportError, OSError):  # every task of the family would fail
        raise
    except Exception as error:
        raise TaskError(f"Building task {seed} of family {name!r} failed: {type(error).__name__}: {error}") from error
