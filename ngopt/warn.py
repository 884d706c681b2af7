"""Warnings that point to the line of the user's program, wherever ngopt or torch came to give them."""

from __future__ import annotations

import sys
import warnings

INNER = ("ngopt", "torch")  # packages whose lines say nothing to a user


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """As `warnings.warn`, at the innermost line that is neither of ngopt nor of torch."""
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
