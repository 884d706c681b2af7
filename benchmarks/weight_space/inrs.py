"""The implicit networks of a run; the few of size smoke are fitted on the spot when they are missing."""

from __future__ import annotations

from pathlib import Path

from benchmarks.inr_data.dataset import InrSet, load
from benchmarks.inr_data.making import Job, make
from meta_train.data import DataMissingError


def load_or_fit(dataset: str, size: str, root: Path | None) -> dict[str, InrSet]:
    """Networks of the splits "train", "val" and "test".

    Raises:
        DataMissingError: There are none, and they are too many to fit in passing; the message says how to.
    """
    try:
        return load(dataset, size, root)
    except DataMissingError:
        if size != "smoke":
            raise
    make(Job(dataset, size, root=root))
    return load(dataset, size, root)
