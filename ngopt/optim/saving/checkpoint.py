"""Checkpoints of an `UpdateRule`: one safetensors file, its settings and model card as JSON in the file's header.

A file is believed only if everything fits: format version, every setting, every tensor's name, shape and dtype, finite
values, and a SHA-256 over all of it. Nothing is ever unpickled.

The shipped untrained checkpoint is made again by ``python -m ngopt.pretrained --write-untrained``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ngopt.errors import CheckpointError
from ngopt.files import write_bytes, write_text
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.rule.update_rule import UpdateRule

ENTRY = "ngopt"  # of the safetensors metadata
FORMAT = "ngopt-rule"
FORMAT_VERSION = 2  # 1: the rule before it led with SOAP's direction
DEFAULT_PRETRAINED = "ngopt-base"
SHIPPED = Path(__file__).resolve().parents[2] / "pretrained"
SUFFIX = ".safetensors"
UNTRAINED = "-untrained"
LARGEST = {"embedding": 4096, "message": 4096, "message_rounds": 64}  # a damaged setting must not fill the memory
MAX_BYTES = 1 << 28  # far above any rule; keeps a mistaken path from filling the memory
REQUIRED = ("format", "format_version", "config", "card", "sha256")


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
    tensors = {name: value.detach().cpu().contiguous() for name, value in rule.state_dict().items()}
    _check_finite(tensors, path)
    header: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": dataclasses.asdict(rule.config),
        "card": dict(card or {"status": "untrained"}),
    }
    try:
        header["sha256"] = _digest(header, tensors)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The model card must hold JSON values only: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry, because safetensors writes several in any order: the same rule is then always the same bytes.
    write_bytes(path, save(tensors, metadata={ENTRY: json.dumps(header, sort_keys=True)}))
    page = card_page(path.stem, header["card"], tensors, f", format {FORMAT_VERSION}")
    write_text(path.with_suffix(".md"), page)
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
        _check_tensors(tensors, UpdateRule(config).to(dtype).state_dict(), where)
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
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file has the length of its header first, which can begin like a pickle, and then a brace.
    if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise CheckpointError(f"{path} is a pickle (torch.save), which ngopt never reads: it could run code. {remedy}")
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, too many for an ngopt checkpoint. {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}). {remedy}") from error
    try:
        header = json.loads(metadata.get(ENTRY, "{}"))
    except (ValueError, RecursionError):
        header = {}
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.keys() != set(REQUIRED):
        raise CheckpointError(f"{path} is a safetensors file, but not one of ngopt's. {remedy}")
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {header['format_version']}; this ngopt reads version {FORMAT_VERSION}. "
            "Install the ngopt that wrote it, or write it again."
        )
    if header["sha256"] != _digest(header, tensors):
        raise CheckpointError(f"{path} was changed after it was written: its SHA-256 does not fit. {remedy}")
    return header, tensors


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    def form(value: Tensor) -> tuple:
        return tuple(value.shape), value.dtype

    wrong = [name for name in tensors.keys() | expected.keys() if name not in tensors or name not in expected]
    wrong += [name for name in tensors.keys() & expected.keys() if form(tensors[name]) != form(expected[name])]
    if wrong:
        raise CheckpointError(
            f"{path}: tensors {sorted(wrong)[:8]} are missing, unknown, or of another shape or dtype than its settings "
            "ask for. Use the version of ngopt that wrote it."
        )
    _check_finite(tensors, path)


def _check_finite(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CheckpointError(f"{path}: tensors {bad[:8]} hold NaN or infinity; such a rule cannot be used.")


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header (without itself) and every tensor with its name, dtype and shape."""
    digest = hashlib.sha256(json.dumps({k: v for k, v in header.items() if k != "sha256"}, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def card_page(name: str, card: Mapping[str, Any], tensors: Mapping[str, Tensor], note: str = "") -> str:
    """A model card as Markdown; the note ends the sentence on the tensors."""
    count = sum(value.numel() for value in tensors.values())
    lines = [f"# {name}", "", f"{count:,} meta-parameters in {len(tensors)} tensors{note}.", ""]
    lines += [f"- **{key.replace('_', ' ')}**: {value}" for key, value in card.items()]
    return "\n".join(lines) + "\n"
