"""Files that are whole at any moment, and are believed only if they are what was written. Never pickle.

Whoever reads a file finds what was there before or what should be there, never half of it, whatever is killed. What is
read back carries a SHA-256 of itself; files of older versions, which have none, are read all the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from ngopt.errors import FileError, FolderInUseError

try:
    import fcntl
except ImportError:  # Windows: folders are not locked there
    fcntl = None

CHECKSUM = "sha256"
TEMPORARY = ".part"
NOTE = ".in-use"  # who works in a folder
MOST_JSON = 1 << 28  # bytes; a mistaken path must not fill the memory
Record = TypeVar("Record")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole. Its folder is made.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps files private
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object with a checksum; see `write_bytes`."""
    # First, so that damage to the checksum itself reaches into what it is for.
    write_text(path, json.dumps({CHECKSUM: checksum(values), **values}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of `write_json`, without its checksum.

    Raises:
        FileError: It is no JSON object, nested too deeply, too large, or not what was written.
        OSError: It cannot be read.
    """
    if (size := path.stat().st_size) > MOST_JSON:
        raise FileError(f"{path} has {size:,} bytes, too many for a file of its kind.")
    return unsealed(parse_json(path.read_bytes(), path), path)


def parse_json(text: str | bytes, source: Any) -> Any:
    """Values from JSON, however it is damaged.

    Raises:
        FileError: It is none, or nested too deeply; the message names the source.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{source} is not JSON ({_brief(error)}).") from error


def checksum(values: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def unsealed(values: Any, source: Any) -> dict[str, Any]:
    """A JSON object without its checksum, which must fit.

    Raises:
        FileError: It does not, or this is no object.
    """
    if not isinstance(values, dict):
        raise FileError(f"{source} is not a JSON object.")
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    if not is_sealed(values, source):
        return rest  # of an older version
    if values[CHECKSUM] != checksum(rest):
        raise FileError(f"{source} is not what was written: its checksum does not fit.")
    return rest


def is_sealed(values: dict[str, Any], source: Any) -> bool:
    """Whether an object has a checksum.

    Raises:
        FileError: It has one under a name that was damaged.
    """
    first = next(iter(values.values()), None)
    if CHECKSUM not in values and isinstance(first, str) and re.fullmatch("[0-9a-f]{64}", first):
        raise FileError(f"{source} is not what was written: its checksum has lost its name.")
    return CHECKSUM in values


def from_json(cls: type[Record], values: Any, source: Any) -> Record:
    """A dataclass from a JSON object of its fields; those that have a default may be missing.

    Raises:
        FileError: One is unknown, missing, or of another type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or values.keys() - known.keys():
        raise FileError(f"{source} has no {cls.__name__}, or one with unknown entries.")
    hints = typing.get_type_hints(cls)
    for name, one in known.items():
        if name not in values and one.default is one.default_factory is MISSING:
            raise FileError(f"{source} lacks {name}.")
        if name in values and not _fits(values[name], hints[name]):
            raise FileError(f"{source}: {name} must be {one.type}, not {_brief(values[name])}.")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    return type(value) is hint or (hint is float and type(value) is int)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else text[:100] + " ..."


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Have a folder for oneself. The lock goes with the process, however that ends; leftovers of killed ones are swept.

    Args:
        folder: Made if it is not there.
        wait: For whoever has it, and sweep nothing; by default that is an error.

    Raises:
        FolderInUseError: Another process has it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"{folder} is in use by {_owner(folder)}. Wait until it has ended, or name another folder."
            ) from error
        if wait:
            yield
            return
        sweep(folder)
        write_text(folder / NOTE, f"process {os.getpid()} ({os.path.basename(sys.argv[0])} {' '.join(sys.argv[1:])})")
        try:
            yield
        finally:
            (folder / NOTE).unlink(missing_ok=True)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing. Nobody else may write there meanwhile."""
    for left in folder.glob(f".*{TEMPORARY}"):
        if left.is_file():
            left.unlink(missing_ok=True)


def _owner(folder: Path) -> str:
    try:
        return (folder / NOTE).read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return "another process"
