"""Names for parameters that were given none, or that share one."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count


def generated(place: int) -> str:
    """The name of a parameter that was given none."""
    return f"param.{place}"


def is_generated(name: str) -> bool:
    """Whether a name is one of `generated`."""
    return name.startswith("param.") and name[len("param.") :].isdecimal()


def unique(name: str, taken: Collection[str]) -> str:
    """The name, made different from those taken: two modules can have parameters of one name."""
    return name if name not in taken else next(n for i in count(2) if (n := f"{name} ({i})") not in taken)
