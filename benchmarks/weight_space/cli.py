"""The command line of a suite: made from the settings' own help texts, so that none can be forgotten."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.devices import device_of
from benchmarks.common.results import RESULTS
from benchmarks.weight_space.config import Config, ConfigError, Rule, configure, settings
from benchmarks.weight_space.session import run_all
from benchmarks.weight_space.suites import SUITES

GROUPS = {"seed": "what to run", "options": "encoder", "clip": "training", "flip": "augmentation"}  # last of each group


def main(suite: str, argv: Sequence[str] | None = None) -> None:
    """Train as the command line says, and store the rows."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(suite)
    arguments = vars(parser.parse_args(words))
    try:
        configs = read_configs(suite, arguments)
    except ConfigError as error:
        parser.error(str(error))
    smoke = configs[0].size == "smoke"  # rows of smoke tests are of no interest to anybody else
    results = arguments.get("results") or (arguments["out"] / "results" if smoke else RESULTS)
    command = [*SUITES[suite].command(suite), *words]
    run_all(configs, command, out=arguments["out"], results=results, root=arguments.get("data_root"))


def read_configs(suite: str, arguments: dict[str, Any]) -> list[Config]:
    """One set of settings per seed, from parsed arguments.

    Raises:
        ConfigError: See `configure`.
    """
    values = {name: value for name, value in arguments.items() if name in settings() and name != "seed"}
    values["options"] = dict(arguments["options"])
    if len(SUITES[suite].tasks) == 1:
        values["task"] = SUITES[suite].tasks[0]
    if arguments["smoke"]:
        values["size"] = "smoke"
    if "device" in values:
        values["device"] = device_of(values["device"])
    return [configure(suite=suite, **values, seed=seed) for seed in arguments["seed"]]


def make_parser(suite: str) -> argparse.ArgumentParser:
    """The parser of a suite; settings that are not given are left to the presets."""
    parser = argparse.ArgumentParser(
        prog=" ".join(SUITES[suite].command(suite)),
        description=f"Learn from the weights of {SUITES[suite].networks} ({suite.replace('_', ' ')}). A run that was "
        "stopped goes on where it was when the same command is given again; the result is the same to the last bit.",
        epilog="mlp_aug turns on --permute and --flip, --faithful --amsgrad and --schedule constant. Curves: "
        "tensorboard --logdir runs. Tables and pictures of all rows: python -m benchmarks.weight_space.report.",
    )
    groups = iter(GROUPS.values())
    group = parser.add_argument_group(next(groups))
    for name, (kind, rule) in settings().items():
        if name == "suite" or (name == "task" and len(SUITES[suite].tasks) == 1):
            continue
        _add(group, name, kind, rule, suite)
        if name in GROUPS:
            group = parser.add_argument_group(next(groups, "how to run it"))
    group.add_argument("--smoke", action="store_true", help="size smoke: does it run at all? Seconds")
    group.add_argument("--out", type=Path, default=Path("runs"), help="folder of all run directories")
    group.add_argument("--results", type=Path, help="folder of the result files; default: benchmarks/results")
    group.add_argument("--data-root", type=Path, help="where images and networks are; see meta_train.data")
    return parser


def _add(group: Any, name: str, kind: type, rule: Rule, suite: str) -> None:
    flag, text = "--" + name.replace("_", "-"), rule.help.replace("%", "%%")
    about = SUITES[suite]
    choices = {"dataset": about.datasets, "encoder": about.encoders, "size": rule.choices}
    first = {"dataset": next(iter(about.plan)), "size": "small", "encoder": "ng_t"}
    common = {"default": argparse.SUPPRESS, "help": f"{text}; default: {_default(name, suite)}"}
    if name == "seed":
        group.add_argument(flag, type=int, nargs="+", default=[0], help=f"one run per seed: {text}; default: 0")
    elif name == "options":
        group.add_argument("--option", dest=name, metavar="NAME=VALUE", nargs="+", type=_option, help=text, default=[])
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    elif name == "task":
        group.add_argument(flag, choices=about.tasks, required=True, help=text)
    elif name in first:
        flag, help = f"--{about.noun}" if name == "dataset" else flag, f"{text}; default: {first[name]}"
        group.add_argument(flag, dest=name, choices=choices[name], default=first[name], help=help)
    else:
        metavar = {int: "N", float: "X"}.get(kind)
        group.add_argument(flag, type=kind, choices=rule.choices, metavar=metavar, **common)


def _default(name: str, suite: str) -> str:
    """What a setting is when it is not given, in words."""
    about = SUITES[suite]
    if name in about.sizes["smoke"]:
        return "by size, " + ", ".join(f"{size} {preset[name]}" for size, preset in about.sizes.items())
    value = about.preset.get(name, getattr(Config, name, None))
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
