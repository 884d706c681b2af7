"""Which processor a command computes on."""

from __future__ import annotations

import torch


def device_of(name: str) -> str:
    """What ``--device`` means: ``auto`` is a GPU if there is one, and all else is what it says."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
