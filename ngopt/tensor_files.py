"""Tensors in files: safetensors, with everything else as JSON in the header, and a checksum over all of it.

What is of one step goes into one file: a kill can then never leave tensors of different steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ngopt.errors import FileError
from ngopt.files import CHECKSUM, checksum, is_sealed, parse_json, write_bytes

HEADER = "header"
Tensors = dict[str, Tensor]
Header = dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and header in one file, as `ngopt.files.write_bytes` does."""
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    plain = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    sealed = {CHECKSUM: content_checksum(header, plain), **header}
    write_bytes(path, save(plain, metadata={HEADER: json.dumps(sealed)}))


def read_tensors(path: Path, *, most_bytes: int | None = None, format: str | None = None) -> tuple[Tensors, Header]:
    """Tensors and header of a file of `write_tensors`; no more memory is taken than the file is long.

    Args:
        path: Of the file.
        most_bytes: More than any file of its kind has: a mistaken path must not fill the memory.
        format: What the header's entry ``"format"`` must be. Such files have a checksum; those of older kinds may not.

    Raises:
        FileError: It is none of these, or not what was written.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:  # a missing or unreadable file is an OSError with its name
        start = file.read(9)
    # A safetensors file has the length of its header first, which can begin like a pickle, and then a brace.
    if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise FileError(f"{path} is a pickle (torch.save), which ngopt never reads: it could run code.")
    if most_bytes is not None and (size := path.stat().st_size) > most_bytes:
        raise FileError(f"{path} has {size:,} bytes, too many for a file of its kind.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise FileError(f"{path} is not a readable safetensors file ({error}).") from error
    if text is None:
        raise FileError(f"{path} is a safetensors file, but it has no header of ngopt.")
    header = parse_json(text, f"The header of {path}")
    if not isinstance(header, dict):
        raise FileError(f"The header of {path} is not a JSON object.")
    if format is not None and (header.get("format") != format or CHECKSUM not in header):
        raise FileError(f"{path} has the format {header.get('format')!r}, not {format!r}, or no checksum.")
    rest = {name: value for name, value in header.items() if name != CHECKSUM}
    if is_sealed(header, path) and header[CHECKSUM] != content_checksum(rest, tensors):
        raise FileError(f"{path} is not what was written: its checksum does not fit.")
    return tensors, rest


def content_checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a header and every tensor with its name, dtype and shape."""
    return add_tensors(hashlib.sha256(checksum(dict(header)).encode()), tensors)


def add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> str:
    """A digest of `hashlib` after every tensor, with its name, dtype and shape, was added; in hexadecimal."""
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_like(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Any, optional: str | None = None
) -> None:
    """See that tensors have the names, shapes and dtypes that are expected; whatever begins with ``optional`` may.

    Raises:
        FileError: They have not; the message names them.
    """
    if optional is not None:
        found, expected = ({k: v for k, v in d.items() if not k.startswith(optional)} for d in (found, expected))
    wrong = found.keys() ^ expected.keys()
    wrong |= {
        name
        for name in found.keys() & expected.keys()
        if (found[name].shape, found[name].dtype) != (expected[name].shape, expected[name].dtype)
    }
    if wrong:
        raise FileError(
            f"{source}: tensors {', '.join(sorted(wrong)[:8])} are missing, unknown, or of another shape or dtype."
        )


def check_finite(tensors: Mapping[str, Tensor], source: Any) -> None:
    """See that there is no NaN and no infinity.

    Raises:
        FileError: There is; the message names the tensors.
    """
    if bad := [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]:
        raise FileError(f"{source}: {', '.join(bad[:8])} hold NaN or infinity.")


@contextmanager
def reading(source: Any) -> Iterator[None]:
    """Whatever goes wrong inside, because of what a file says, is a `FileError` that names the file."""
    try:
        yield
    except FileError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FileError(f"{source} does not hold what it should ({type(error).__name__}: {error}).") from error
