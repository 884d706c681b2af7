"""One seed per purpose, so that any draw can be made again without drawing what came before it."""

from __future__ import annotations

import hashlib

import torch


def derive(*key: str | int) -> int:
    """A seed in ``[0, 2^63)`` from a purpose and numbers; other keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: str | int) -> torch.Generator:
    """A fresh CPU generator with the derived seed."""
    return torch.Generator().manual_seed(derive(*key))
