"""Damage to files, of every kind: flipped bits, cuts, gaps, insertions, and JSON that is nested too deeply."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ngopt.errors import NGOptError

DEEP = b"[" * 100_000


def mutate(content: bytes, dice: random.Random) -> bytes:
    """One kind of damage at one place; half of the places are near the beginning, where headers are."""
    size = len(content)
    at = dice.randrange(min(size, 2000)) if dice.random() < 0.5 else dice.randrange(size)
    length = dice.choice([1, 2, 8, 100])
    return dice.choice(
        [
            lambda: content[:at] + bytes([content[at] ^ 1 << dice.randrange(8)]) + content[at + 1 :],
            lambda: content[:at] + bytes([dice.randrange(256)]) + content[at + 1 :],
            lambda: content[:at] + bytes([dice.choice(b'0123456789-.eE"{}[],:')]) + content[at + 1 :],
            lambda: content[:at],
            lambda: content[:at] + content[at + length :],
            lambda: content[:at] + bytes(length) + content[at + length :],
            lambda: content[:at] + dice.randbytes(length) + content[at:],
            lambda: content[:at] + content[at : at + length] * 2 + content[at + length :],
            lambda: content[:at] + DEEP + content[at:],
        ]
    )()


def survey(
    path: Path, read: Callable[[], Any], same: Callable[[Any], bool], count: int = 1000, errors: Any = NGOptError
) -> dict[str, int]:
    """Damage a file again and again, and read it each time.

    Args:
        path: Of the file; it is as it was afterwards.
        read: Reads it.
        same: Whether what was read is what had been written.
        count: Of mutations.
        errors: What a reader may raise.

    Returns:
        How many were ``refused``, ``accepted`` unchanged, ``wrong``: accepted and changed, or ``foreign``: another
        exception.
    """
    content, dice = path.read_bytes(), random.Random(0)
    found = {"refused": 0, "accepted": 0, "wrong": 0, "foreign": 0}
    for _ in range(count):
        path.write_bytes(mutate(content, dice))
        try:
            found["accepted" if same(read()) else "wrong"] += 1
        except errors:
            found["refused"] += 1
        except Exception:
            found["foreign"] += 1
    path.write_bytes(content)
    return found
