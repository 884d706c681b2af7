"""Checkpoints of an `UpdateRule`: one safetensors file, its settings and model card as JSON in the file's header.

A file is believed only if everything fits: format version, every setting, every tensor's name, shape and dtype, finite
values, and a SHA-256 over all of it. Nothing is ever unpickled.

The shipped untrained checkpoint is made again by ``python -m ngopt.pretrained --write-untrained``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ngopt.cards import card_page
from ngopt.errors import CheckpointError, FileError
from ngopt.files import write_text
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.update_rule import UpdateRule
from ngopt.optim.saving.older import VERSION as VERSION_2
from ngopt.optim.saving.older import read_version_2
from ngopt.tensor_files import check_finite, check_like, read_tensors, write_tensors

FORMAT = "ngopt-rule"
FORMAT_VERSION = 3  # 1: the rule before it led with SOAP's direction; 2: another header
READ_VERSIONS = (VERSION_2, FORMAT_VERSION)
DEFAULT_PRETRAINED = "ngopt-base"
SHIPPED = Path(__file__).resolve().parents[2] / "pretrained"
SUFFIX = ".safetensors"
UNTRAINED = "-untrained"
LARGEST = {"embedding": 4096, "message": 4096, "message_rounds": 64}  # a damaged setting must not fill the memory
MAX_BYTES = 1 << 28  # far above any rule; keeps a mistaken path from filling the memory
REQUIRED = ("format", "format_version", "config", "card")


def save_pretrained(rule: UpdateRule, path: str | os.PathLike, *, card: Mapping[str, Any] | None = None) -> Path:
    """Write a rule to one safetensors file, and its model card beside it as Markdown. Both appear at once or not.

    Args:
        rule: The meta-parameters and their settings.
        path: File to write; ``.safetensors`` is added if missing.
        card: What a user should know: any JSON values. ``{"status": "untrained"}`` if left out.

    Returns:
        The path written.

    Raises:
        CheckpointError: A meta-parameter is not finite, or the card is not JSON.
    """
    path = Path(path)
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    tensors, card = rule.state_dict(), dict(card or {"status": "untrained"})
    _check_finite(tensors, path)
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The model card must hold JSON values only: {error}") from error
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": dataclasses.asdict(rule.config)}
    write_tensors(path, tensors, {**header, "card": card})
    count = sum(value.numel() for value in tensors.values())
    introduction = f"{count:,} meta-parameters in {len(tensors)} tensors, format {FORMAT_VERSION}."
    write_text(path.with_suffix(".md"), card_page(path.stem, card, introduction))
    return path


def load_pretrained(name_or_path: str | os.PathLike = DEFAULT_PRETRAINED) -> UpdateRule:
    """Load a rule by the name of a shipped checkpoint, or from a file that `save_pretrained` wrote.

    ``"ngopt-base"`` is the meta-trained rule; until one is shipped, it is ``"ngopt-base-untrained"``.

    Args:
        name_or_path: A name from `shipped`, or a path.

    Returns:
        The rule, on the CPU.

    Raises:
        CheckpointError: No such name or file, or the file is corrupt, foreign or of another version.

    Example:
        >>> ngopt.load_pretrained("ngopt-base").config.momentum
        0.9
    """
    path = _locate(name_or_path)
    header, tensors = _read(path)
    return rule_from_tensors(_config_from_values(header["config"], path), tensors, path, torch.float32)


def read_card(name_or_path: str | os.PathLike = DEFAULT_PRETRAINED) -> dict[str, Any]:
    """The model card of a checkpoint; raises as `load_pretrained` does."""
    return _read(_locate(name_or_path))[0]["card"]


def default_name() -> str:
    """Name of the checkpoint that is used where none is asked for; its card says whether it is trained."""
    return _locate(DEFAULT_PRETRAINED).stem


def shipped() -> list[str]:
    """Names of the checkpoints that come with ngopt."""
    return sorted(path.stem for path in SHIPPED.glob(f"*{SUFFIX}"))


def config_to_json(config: UpdateConfig) -> str:
    """The settings as JSON; `config_from_json` is the inverse."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def config_from_json(text: str) -> UpdateConfig:
    """Settings from JSON, each of them checked.

    Raises:
        CheckpointError: Not JSON; a setting is missing or unknown; a value is of the wrong type or out of range.
    """
    return _config_from_values(parse_json_object("The settings", text), "saved state")


def parse_json_object(where: str, text: Any) -> dict[str, Any]:
    """A JSON object from a string, however damaged or deeply nested that is.

    Raises:
        CheckpointError: It is no string, not JSON, or not an object.
    """
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} must be a JSON object, not {type(values).__name__}.")
    return values


def rule_from_tensors(
    config: UpdateConfig, tensors: Any, where: str | os.PathLike, dtype: torch.dtype | None = None
) -> UpdateRule:
    """A rule with the given meta-parameters, on the CPU.

    Args:
        config: Its settings.
        tensors: Its state by name.
        where: Named in errors.
        dtype: What the tensors must be; None: any one floating-point type.

    Raises:
        CheckpointError: A tensor is missing, unknown, not finite, or of another shape or number type.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{where} must hold tensors by name.")
    dtypes = {value.dtype for value in tensors.values()}
    if len(dtypes) > 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise CheckpointError(f"{where}: tensors must have one floating-point type, not {sorted(map(str, dtypes))}.")
    for name, most in LARGEST.items():
        if getattr(config, name, 0) > most:
            raise CheckpointError(f"{where}: {name}={getattr(config, name)} is more than any rule has ({most}).")
    dtype = dtype or next(iter(dtypes), torch.float32)
    with torch.device("meta"):  # takes no memory: the sizes may be damaged
        expected = UpdateRule(config).to(dtype).state_dict()
    try:
        check_like(tensors, expected, where)
    except FileError as error:
        raise CheckpointError(f"{error} Use the version of ngopt that wrote it.") from error
    _check_finite(tensors, where)
    rule = UpdateRule(config).to(dtype)
    rule.load_state_dict(tensors)
    return rule


def _config_from_values(values: Any, source: str | os.PathLike) -> UpdateConfig:
    try:
        return _build(UpdateConfig, values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: the settings do not fit this version of ngopt: {error}") from error


def _build(cls: type, values: Any) -> Any:
    """A config dataclass from exactly its fields, every value of the type of the field's default."""
    if not isinstance(values, dict):
        raise TypeError(f"{cls.__name__} must be a JSON object, not {values!r}")
    defaults = dataclasses.asdict(cls())
    if values.keys() != defaults.keys():
        raise ValueError(f"fields {sorted(values.keys() ^ defaults.keys())} are missing or unknown in {cls.__name__}")
    for name, default in defaults.items():
        whole = type(default) is float and type(values[name]) is int  # 1 where 1.0 is meant
        if type(values[name]) is not type(default) and not whole:
            raise TypeError(f"{cls.__name__}.{name} must be {type(default).__name__}, not {values[name]!r}")
    return cls(**values)


def _locate(name_or_path: str | os.PathLike) -> Path:
    text = os.fspath(name_or_path)
    if os.path.basename(text) == text and not text.endswith(SUFFIX):
        for name in (text, text + UNTRAINED):
            if (SHIPPED / (name + SUFFIX)).is_file():
                return SHIPPED / (name + SUFFIX)
    if Path(text).is_file():
        return Path(text)
    raise CheckpointError(
        f"No checkpoint {text!r}: it is neither a file nor a shipped name. Shipped: {', '.join(shipped()) or 'none'}."
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file whose header and checksum are right."""
    remedy = "Download or write it again with ngopt.save_pretrained."
    try:
        older = read_version_2(path, MAX_BYTES)
        tensors, header = older or read_tensors(path, most_bytes=MAX_BYTES, format=FORMAT)
    except (FileError, OSError) as error:
        raise CheckpointError(f"{error} {remedy}") from error
    if header.get("format_version") not in READ_VERSIONS or header.keys() != set(REQUIRED):
        raise CheckpointError(
            f"{path} has format version {header.get('format_version')}; this ngopt reads version {FORMAT_VERSION}. "
            "Install the ngopt that wrote it, or write it again."
        )
    return header, tensors


def _check_finite(tensors: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    try:
        check_finite(tensors, source)
    except FileError as error:
        raise CheckpointError(f"{error} Such a rule cannot be used.") from error
