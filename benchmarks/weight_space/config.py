"""Settings of one training run: checked when they are made, with the preset of suite, size and encoder below them."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from benchmarks.weight_space.suites import ENCODERS, MLPS, PUBLISHED, SIZES, SUITES
from ngopt.errors import NGOptError

BASELINES = (*MLPS, "statistics")  # have no options of the metanetworks
# What says where a run belongs, or how it is carried out; all other settings are its variant.
IDENTITY = ("suite", "task", "dataset", "size", "encoder", "seed")
MOTIONS = ("translate", "rotate", "scale", "noise", "drop")
PICTURE_SYMMETRIES = ("none", "mirror", "square")
PRECISIONS = ("auto", "fp32", "bf16")
CONDUCT = ("device", "threads", "checkpoint_steps", "precision", "compile", "replay")


class ConfigError(NGOptError, ValueError):
    """A setting is unknown or impossible; the message says which, and what is possible."""


@dataclass(frozen=True)
class Rule:
    """What a setting means, and the values it may have."""

    help: str = ""
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Config:
    """One run. `configure` fills in the preset of its size, suite and encoder."""

    suite: Annotated[str, Rule(choices=tuple(SUITES))]
    task: Annotated[str, Rule("what to learn")]
    dataset: Annotated[str, Rule("which networks: what they show, or were trained on")]
    size: Annotated[str, Rule("how many networks: smoke runs in seconds", choices=SIZES)]
    encoder: Annotated[str, Rule("metanetwork, or a baseline that sees flat weights", choices=ENCODERS)]
    seed: Annotated[int, Rule("of initial weights, batches, augmentation and dropout", low=0)] = 0

    faithful: Annotated[bool, Rule("as published: encoder, amsgrad, constant learning rate after warm-up")] = False
    sign: Annotated[
        bool,
        Rule("encoder option: exact invariance to signs and scales (by default only of implicit networks)"),
    ] = True
    activations: Annotated[bool, Rule("encoder option: sees which functions neurons compute")] = True
    probes: Annotated[int, Rule("encoder option: number of probe inputs; 0: the encoder sees weights alone", low=0)] = 0
    copies: Annotated[int, Rule("encoder option: networks whose images are averaged (editing only)", low=1)] = 1
    options: Annotated[dict[str, Any], Rule("other encoder options: width=64 dropout=0.1")] = field(
        default_factory=dict
    )

    fits: Annotated[int, Rule("fits of each training image that are read, of those that the set has", low=1)] = 1
    epochs: Annotated[int, Rule("passes over the training networks", low=1)] = 30
    batch_size: Annotated[int, Rule("networks per step", low=1)] = 64
    together: Annotated[int, Rule("networks of one architecture that stay together when shuffled: faster", low=1)] = 1
    lr: Annotated[float, Rule("peak learning rate", low=1e-12, high=10.0)] = 1e-3
    encoder_lr: Annotated[
        float, Rule("share of lr that the encoder learns at, below its readout", low=0.0, high=100.0)
    ] = 1.0
    weight_decay: Annotated[float, Rule("of AdamW", low=0.0, high=1.0)] = 5e-4
    warmup: Annotated[int, Rule("steps of linear warm-up", low=0)] = 100
    schedule: Annotated[str, Rule("learning rate after warm-up", choices=("cosine", "constant"))] = "cosine"
    amsgrad: Annotated[bool, Rule("of AdamW")] = False
    ema: Annotated[
        float, Rule("decay of the running mean of weights that is tested; 0: none", low=0.0, high=0.99999)
    ] = 0.0
    patience: Annotated[int, Rule("epochs without a better validation measure that end a run; 0: any", low=0)] = 0
    clip: Annotated[float, Rule("largest gradient norm", low=1e-12)] = 10.0

    augment: Annotated[bool, Rule("move the pictures, and disturb the weights, in training")] = True
    translate: Annotated[float, Rule("largest shift (pictures span -1 to 1)", low=0.0, high=2.0)] = 0.1
    rotate: Annotated[float, Rule("largest rotation in degrees", low=0.0, high=180.0)] = 15.0
    scale: Annotated[float, Rule("largest relative change of size", low=0.0, high=0.9)] = 0.1
    noise: Annotated[float, Rule("noise on weights, in standard deviations of their tensor", low=0.0, high=10.0)] = 0.0
    drop: Annotated[float, Rule("share of weights set to zero", low=0.0, high=0.99)] = 0.0
    symmetry: Annotated[
        str,
        Rule(
            "move pictures in training by exact symmetries, targets with them: left-right mirrors, or the square",
            choices=PICTURE_SYMMETRIES,
        ),
    ] = "none"
    permute: Annotated[bool, Rule("permute hidden neurons at random in training")] = False
    flip: Annotated[bool, Rule("flip signs of hidden neurons at random in training")] = False

    precision: Annotated[
        str, Rule("bf16: autocast; auto: where the processor has it, for encoders that bear it", choices=PRECISIONS)
    ] = "auto"
    compile: Annotated[bool, Rule("torch.compile the model")] = False
    replay: Annotated[bool, Rule("on a GPU, steps as one CUDA graph, where they can be")] = True
    device: Annotated[str, Rule("cpu, cuda, cuda:1, or auto: a GPU if there is one")] = "cpu"
    threads: Annotated[int, Rule("CPU threads; small models gain nothing from more", low=1)] = 1
    checkpoint_steps: Annotated[int, Rule("steps between two checkpoints", low=1)] = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in settings():
            _check(name, getattr(self, name))
        if self.device.split(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"device must be cpu, cuda or cuda:N, not {self.device!r}.")
        suite = SUITES[self.suite]
        for noun, value, known in (
            ("task", self.task, suite.tasks),
            (suite.noun, self.dataset, suite.datasets),
            ("encoder", self.encoder, suite.encoders),
        ):
            if value not in known:
                raise ConfigError(f"{self.suite} has no {noun} {value!r}; it has: {', '.join(known)}.")
        if self.faithful and self.encoder not in PUBLISHED:
            raise ConfigError(f"{self.encoder} has no faithful form; these have: {', '.join(PUBLISHED)}.")
        if self.faithful and (self.sign or self.probes or self.copies > 1):
            raise ConfigError("faithful is as published: leave out sign, probes and copies.")
        if self.encoder in BASELINES and (self.sign or self.probes or self.copies > 1 or not self.activations):
            raise ConfigError(f"{self.encoder} sees weights alone: leave out sign, probes, copies and activations.")
        if self.encoder == "probe_mlp" and (self.sign or not self.probes):
            raise ConfigError("probe_mlp sees answers alone: give it probes, and leave out sign.")
        if self.copies > 1 and self.suite != "inr_editing":
            raise ConfigError("copies are of use in editing only: leave them out.")
        if not self.activations and self.encoder not in PUBLISHED:
            raise ConfigError(f"{self.encoder} has no way not to see activations; these have: {', '.join(PUBLISHED)}.")
        if not self.activations and self.sign:
            raise ConfigError("sign shows whether a neuron's function is odd: leave it out with no-activations.")
        if self.probes and suite.many:
            raise ConfigError("probes are for networks of one architecture, and these have several: leave them out.")
        if (self.augment or self.permute or self.flip or self.symmetry != "none") and suite.many:
            raise ConfigError("augment, symmetry, permute and flip are for implicit networks: leave them out.")
        if self.fits > 1 and suite.many:
            raise ConfigError("fits are of images, and these networks are trained on many: leave them out.")
        if self.augment and self.suite == "inr_editing":
            raise ConfigError("augment moves networks, but not the targets of editing: leave it out.")
        if clash := sorted({"sign", "probes", "copies", "activations"} & self.options.keys()):
            raise ConfigError(f"{', '.join(clash)} are settings of their own; take them out of options.")

    def encoder_options(self) -> dict[str, Any]:
        """Options for the model; those at their defaults are left to it."""
        given: dict[str, Any] = {"sign": self.sign or None, "probes": self.probes or None}
        if self.encoder == "neuron_flow":  # keeps to signs unless it is told not to
            given["sign"] = self.sign
        given["copies"] = self.copies if self.copies > 1 else None
        given["activations"] = None if self.activations else False
        return {name: value for name, value in given.items() if value is not None} | self.options

    def changes(self) -> dict[str, Any]:
        """Settings that differ from the preset of the encoder as it comes, ``faithful`` among them."""
        identity = {name: getattr(self, name) for name in IDENTITY}
        kinds = {"faithful": False, "activations": True}  # these change presets themselves
        preset = dataclasses.asdict(configure(**identity, **{name: getattr(self, name) for name in kinds})) | kinds
        idle = () if self.augment else MOTIONS  # say nothing about a run that does not move anything
        mine = dataclasses.asdict(self)
        mine["options"] = {k: v for k, v in self.options.items() if preset["options"].get(k) != v}
        preset["options"] = {}
        return {name: v for name, v in mine.items() if v != preset[name] and name not in idle}

    def variant(self) -> str:
        """The same in words, what does not change results left out: ``"faithful sign probes=64"``."""
        changes = {name: value for name, value in self.changes().items() if name not in CONDUCT}
        return " ".join(word for name, value in changes.items() for word in _words(name, value))

    def slug(self) -> str:
        """A name for this run's folder."""
        words = [*([] if len(SUITES[self.suite].tasks) == 1 else [self.task]), self.encoder, *self.variant().split()]
        return "-".join([*words, f"seed{self.seed}"]).replace("=", "").replace("/", "_")


def configure(**values: Any) -> Config:
    """Settings from the preset of suite, size and encoder, with ``values`` on top.

    Raises:
        ConfigError: A name is unknown, missing, or a value impossible.
    """
    if unknown := sorted(values.keys() - settings().keys()):
        raise ConfigError(f"There are no settings {', '.join(unknown)}; known are: {', '.join(settings())}.")
    if missing := [name for name in IDENTITY if name != "seed" and name not in values]:
        raise ConfigError(f"These settings have no default: {', '.join(missing)}.")
    if values["suite"] not in SUITES or values["size"] not in SIZES:
        raise ConfigError(f"Suite must be one of {tuple(SUITES)} and size one of {SIZES}; {values} is given.")
    suite = SUITES[values["suite"]]
    preset: dict[str, Any] = {**suite.preset, **suite.sizes[values["size"]]}
    preset |= suite.own.get(values["encoder"], {})
    if values["encoder"] in BASELINES:
        preset = preset | {"sign": False}
    if values["encoder"] == "mlp_aug":
        preset = preset | {"permute": True, "flip": True}
    if values.get("activations") is False:  # which symmetries there are would tell
        preset = preset | {"sign": False}
    if values.get("faithful"):
        preset = preset | {"schedule": "constant", "amsgrad": True, "sign": False}
        preset |= suite.published if values["size"] == "full" else {}
    options = {**preset.get("options", {}), **values.get("options", {})}
    return Config(**(preset | values | {"options": options}))


@cache
def settings() -> dict[str, tuple[type, Rule]]:
    """Type and rule of every setting."""
    hints = typing.get_type_hints(Config, include_extras=True)
    return {
        name: (typing.get_origin(hint.__origin__) or hint.__origin__, *hint.__metadata__)
        for name, hint in hints.items()
    }


def _check(name: str, value: Any) -> None:
    kind, rule = settings()[name]
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ConfigError(f"{name} must be {kind.__name__}, not {value!r}.")
    if rule.choices and value not in rule.choices:
        raise ConfigError(f"{name} must be one of {', '.join(rule.choices)}, not {value!r}.")
    # "not >=" and not "<", so that NaN is refused too
    if (rule.low is not None and not value >= rule.low) or (rule.high is not None and not value <= rule.high):
        bounds = f"at least {rule.low}" + (f" and at most {rule.high}" if rule.high is not None else "")
        raise ConfigError(f"{name} must be {bounds}, not {value!r}.")


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={v}" for key, v in sorted(value.items())]
    return [name if value is True else f"no-{name}" if value is False else f"{name}={value}"]
