"""The settings of a meta-training run, as frozen dataclasses, read from TOML. Every value is checked before work."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meta_train.unroll import Objective
from ngopt.errors import NGOptError
from ngopt.extras import extra
from ngopt.optim.rule.config import UpdateConfig

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    with extra("train", "reading a config"):
        import tomli as tomllib

CONFIGS = Path(__file__).parent / "configs"
ESTIMATORS = ("backprop", "pes", "spsa")
RULES = ("neural_graph", "feed_forward")


class ConfigError(NGOptError, ValueError):
    """A config that cannot be run; the message names the entry and what it may be."""


def _require(holds: bool, name: str, value: Any, what: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value!r} must be {what}.")


@dataclass(frozen=True, kw_only=True)
class SlotConfig:
    """One place for a stack of optimizees: in every iteration, each slot runs a piece of a run and gives a gradient.

    Attributes:
        estimator: ``"backprop"``, ``"pes"`` or ``"spsa"``.
        families: Task families to draw from, each as likely; name one twice to draw it twice as often.
        count: Optimizees in a stack (`backprop`), or antithetic pairs (`pes`, `spsa`).
        horizon: Shortest and longest run; drawn log-uniformly.
        steps: Inner steps per iteration at the start and at the end of meta-training, with a linear curriculum between.
        train: Parts of the rule that this slot trains.
        offset: Begin the slot's first run in its middle, so that slots do not all begin at once.
        segment: Steps that are held in memory at once (`backprop`).
        damping: Factor on the derivative from segment to segment (`backprop`).
        growth: Largest growth of an optimizee's derivative from segment to segment (`backprop`).
        sigma: Standard deviation of the perturbations: of meta-parameters (`pes`), or of log gains (`spsa`).
    """

    estimator: str = "backprop"
    families: tuple[str, ...] = ("mlp",)
    count: int = 16
    horizon: tuple[int, int] = (50, 150)
    steps: tuple[int, int] = (20, 60)
    train: tuple[str, ...] = ("encoder", "heads")
    offset: bool = True
    segment: int = 10
    damping: float = 0.9
    growth: float = 1.25
    sigma: float = 0.03

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        _require(self.estimator in ESTIMATORS, "estimator", self.estimator, f"one of {', '.join(ESTIMATORS)}")
        _require(bool(self.families), "families", self.families, "at least one family")
        _require(bool(self.train), "train", self.train, "at least one part of the rule")
        _require(self.count >= 1, "count", self.count, "at least 1")
        _require(1 <= self.horizon[0] <= self.horizon[1], "horizon", self.horizon, "[shortest, longest], from 1 up")
        _require(min(self.steps) >= 1, "steps", self.steps, "[at the start, at the end], from 1 up")
        _require(self.segment >= 1, "segment", self.segment, "at least 1")
        _require(0.0 <= self.damping <= 1.0, "damping", self.damping, "in [0, 1]")
        _require(self.growth > 0.0, "growth", self.growth, "above 0")
        _require(self.sigma > 0.0, "sigma", self.sigma, "above 0")
        if self.estimator == "spsa":
            _require(min(self.steps) >= self.horizon[1], "steps", self.steps, "whole runs with spsa, at least horizon")
            _require(not self.offset, "offset", self.offset, "false with spsa, which makes whole runs")

    @property
    def copies(self) -> int:
        """Optimizees that start alike and see the same batches: antithetic pairs."""
        return 1 if self.estimator == "backprop" else 2

    def steps_at(self, iteration: int, iterations: int) -> int:
        """Inner steps in an iteration."""
        first, last = self.steps
        return round(first + (last - first) * min(1.0, iteration / max(1, iterations - 1)))


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """The outer optimizer: AdamW with warm-up and cosine decay, on gradients that are normalised per task family.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the momentum.
        beta2: Decay of the second moment.
        weight_decay: Pulls what started at zero back to zero: toward the hand-made rule.
        warmup: Iterations over which the learning rate rises.
        final: Share of the learning rate that is left at the end.
        clip: A slot's gradient counts at most this many times its family's usual norm.
        ema: Decay of the average of the meta-parameters, which is what is evaluated and shipped.
    """

    lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    warmup: int = 10
    final: float = 0.05
    clip: float = 2.0
    ema: float = 0.95

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        _require(self.lr > 0.0, "lr", self.lr, "above 0")
        for name in ("beta1", "beta2", "ema"):
            _require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "in [0, 1)")
        _require(self.weight_decay >= 0.0, "weight_decay", self.weight_decay, "not negative")
        _require(self.warmup >= 0, "warmup", self.warmup, "not negative")
        _require(0.0 <= self.final <= 1.0, "final", self.final, "in [0, 1]")
        _require(self.clip > 0.0, "clip", self.clip, "above 0")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation runs, from start to end, against the same runs of the untrained rule; they select the checkpoint.

    Attributes:
        every: Iterations between evaluations; the last iteration is always evaluated.
        families: Task families; those that are never trained on should be the ones to select by.
        count: Optimizees of each task.
        horizons: Lengths of the runs.
        strengths: Shares of the learned deviation that are tried; the best one is shipped.
        harm: Weight of a family that ends with a higher loss than with the untrained rule, beside one that gains: what
            replaces a hand-made optimizer should first of all do no harm.
    """

    every: int = 25
    families: tuple[str, ...] = ("validation-cnn", "validation-deep")
    count: int = 4
    horizons: tuple[int, ...] = (200,)
    strengths: tuple[float, ...] = (1.0, 0.5)
    harm: float = 4.0

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        _require(self.every >= 1, "every", self.every, "at least 1")
        _require(self.count >= 1, "count", self.count, "at least 1")
        _require(bool(self.families), "families", self.families, "at least one family")
        _require(bool(self.horizons) and min(self.horizons) >= 1, "horizons", self.horizons, "numbers from 1 up")
        ok = bool(self.strengths) and all(0.0 < s <= 1.0 for s in self.strengths)
        _require(self.harm >= 1.0, "harm", self.harm, "at least 1")
        _require(ok, "strengths", self.strengths, "numbers in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A meta-training run.

    Attributes:
        name: Of the checkpoint that comes out.
        seed: Fixes everything.
        iterations: Outer steps.
        kind: ``"neural_graph"``: ngopt's rule; ``"feed_forward"``: a per-weight MLP.
        init: Checkpoint to start from, a path or the name of a shipped one; empty: the hand-made rule. A rule with the
            graph can start from one without: it is the same rule until what it reads of its neurons moves.
        checkpoint_every: Iterations between checkpoints.
        rule: Settings of ngopt's rule.
        objective: The meta-loss.
        slots: Where the gradients come from.
        outer: The outer optimizer.
        evaluation: Validation and selection.
    """

    name: str
    seed: int = 0
    iterations: int = 100
    kind: str = "neural_graph"
    init: str = ""
    checkpoint_every: int = 10
    rule: UpdateConfig = field(default_factory=UpdateConfig)
    objective: Objective = field(default_factory=Objective)
    slots: tuple[SlotConfig, ...] = (SlotConfig(),)
    outer: OuterConfig = field(default_factory=OuterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Reject settings that cannot work."""
        plain = bool(self.name) and all(c.isalnum() or c in "-_" for c in self.name)
        _require(plain, "name", self.name, "letters, digits, - and _")
        _require(self.iterations >= 1, "iterations", self.iterations, "at least 1")
        _require(self.checkpoint_every >= 1, "checkpoint_every", self.checkpoint_every, "at least 1")
        _require(self.kind in RULES, "kind", self.kind, f"one of {', '.join(RULES)}")
        _require(bool(self.slots), "slots", self.slots, "at least one slot")
        if self.kind == "feed_forward":
            used = [slot.estimator for slot in self.slots]
            _require(
                "spsa" not in used,
                "estimator",
                "spsa",
                "another one: this rule says nothing about whole tensors",
            )


def shipped_configs() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def read_config(path: str | Path) -> RunConfig:
    """Read a config: a file, or the name of a shipped one.

    Raises:
        ConfigError: No such file, not TOML, an unknown entry, a missing one, or an impossible value.
    """
    path = Path(path)
    if path.name in shipped_configs() and not path.exists():
        path = CONFIGS / f"{path.name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(shipped_configs())
        raise ConfigError(
            f"Cannot read the config {path}: {error.strerror}. Name a TOML file, or one of {known}."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str = "config") -> RunConfig:
    """A config from plain values, as TOML or JSON has them; see `read_config`."""
    return _build(RunConfig, values, source)


def _build(hint: Any, value: Any, where: str) -> Any:
    """A value of the hinted type, from plain values; errors say where."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        [inner] = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _build(inner, value, where)
    if origin is tuple:
        arguments = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} = {value!r} must be a list.")
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise ConfigError(f"{where} = {value!r} must have {len(arguments)} entries.")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(h, v, f"{where}[{k}]") for k, (h, v) in enumerate(zip(inner, value, strict=True)))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} = {value!r} must be of type {hint.__name__}.")
    return value


def _build_dataclass(cls: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} = {values!r} must be a table.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(values.keys() - fields.keys()):
        raise ConfigError(f"{where}: unknown entries {', '.join(unknown)}. Known: {', '.join(fields)}.")
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := sorted(set(needed) - values.keys()):
        raise ConfigError(f"{where}: missing entries {', '.join(missing)}.")
    built = {name: _build(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**built)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
