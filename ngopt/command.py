"""How every command ends: with a result, or with a line that says what is wrong and what to do, never a traceback."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

from ngopt.errors import NGOptError

INTERRUPTED = 130  # what shells give for Ctrl-C


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Call the main function of a command, and exit.

    The exit status is what it returns; 1 with a message for what ngopt, or the file system, has to complain about;
    130 after Ctrl-C, with the command that goes on.

    Args:
        main: Takes no argument; returns the exit status, None for 0.
    """
    try:
        status = main() or 0
    except KeyboardInterrupt:
        print(f"\nStopped. What was finished is kept; go on with: {_again()}", file=sys.stderr)
        status = INTERRUPTED
    except NGOptError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except OSError as error:  # a full disk, a folder that may not be written to, ...
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        print(f"error: {where}{error.strerror or error}. Mend that, and go on with: {_again()}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _again() -> str:
    """The command that is running, to be typed once more."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else None
    return shlex.join(["python", *(["-m", name] if name else [sys.argv[0]]), *sys.argv[1:]])
