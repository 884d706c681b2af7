"""Optional packages: what is missing is said in one line, with the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ngopt.errors import MissingExtraError


@contextmanager
def extra(name: str, purpose: str) -> Iterator[None]:
    """Import optional packages in this context.

    Args:
        name: The extra that has them: ``"encoders"``, ``"train"``, or one of another package's.
        purpose: What they are for, as the subject of a sentence: ``"drawing"``.

    Raises:
        MissingExtraError: A package is not installed.

    Example:
        >>> with extra("train", "drawing"):
        ...     from matplotlib.figure import Figure
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "ngopt").split(".")[0] == "ngopt":  # ours: a fault, not a missing package
            raise
        raise MissingExtraError(f"{purpose} cannot run without {error.name}: pip install 'ngopt[{name}]'") from error
