"""The commands: list, tune, run, cost, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.common.pages import PAGES
from benchmarks.common.rivals import RIVALS
from benchmarks.learning_to_optimize.costing import HORIZON, cost
from benchmarks.learning_to_optimize.optimizers import LEARNED, NGOPT, available
from benchmarks.learning_to_optimize.running import maker, run, settings_of
from benchmarks.learning_to_optimize.store import FOLDER
from benchmarks.learning_to_optimize.tasks import GROUPS, TASKS, Task, choose
from benchmarks.learning_to_optimize.tuning import TUNED_STEPS, score, short, tune
from meta_train.data import DataMissingError

PROGRAM = "python -m benchmarks.learning_to_optimize"
SMOKE_STEPS = 20
SMALL = 10_000  # parameters of a network that optimizers with an embedding per weight can afford
SMOKE_FOLDER = Path("runs/learning_to_optimize-smoke")  # apart from rows that count
EPILOG = f"""examples:
  {PROGRAM} list
  {PROGRAM} tune --task held-out                    # rivals on validation data; hours
  {PROGRAM} run --task fm16 --seeds 5               # rivals at their best, learned optimizers as they come
  {PROGRAM} run --task all --optimizer NGOptimizer
  {PROGRAM} cost --task all                         # what a step costs, all optimizers in turns
  {PROGRAM} run --task fm16 --horizon-share 0.7     # NGOptimizer told to be done after 70 % of the steps
  {PROGRAM} run --task held-out --lr 2 --seeds 10   # what an lr that is not right costs
  {PROGRAM} report                                  # tables and pictures, from the stored rows alone
tune and run go on where they were stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    command = ["python", "-m", "benchmarks.learning_to_optimize", *(sys.argv[1:] if argv is None else argv)]
    if arguments.command == "report":
        from benchmarks.learning_to_optimize.report import report

        report(arguments.results, arguments.images, arguments.pages)
        return 0
    if arguments.command == "list":
        print_list()
        return 0
    if arguments.smoke:
        arguments.steps, arguments.seeds = SMOKE_STEPS, 1
        arguments.task = arguments.task or ["gru"]
        arguments.results = arguments.results or SMOKE_FOLDER
    try:
        if not arguments.task:
            raise ValueError("--task is needed, for example --task fm16, or --task all")
        tasks = choose(arguments.task)
        names = choose_optimizers(arguments)
    except ValueError as error:
        parser.error(str(error))
    if arguments.steps < 1 or arguments.seeds < 1 or not 0 < arguments.horizon_share <= 1 or not arguments.lr > 0:
        parser.error("--steps and --seeds must be at least 1, --lr above 0, --horizon-share above 0 and at most 1")
    arguments.results = arguments.results or FOLDER
    torch.set_num_threads(arguments.threads)
    return work(arguments, tasks, names, command)


def work(arguments: argparse.Namespace, tasks: list[Task], names: list[str], command: Sequence[str]) -> int:
    """Tune or run all pairs; what cannot be done is named, counted, and left out."""
    warm_up()
    failed = []
    if arguments.command == "cost":
        return measure_costs(tasks, names, command, arguments.results)
    pairs = [(task, name) for task in tasks for name in names]
    for task, name in tqdm(pairs, desc=arguments.command, disable=None if len(pairs) > 1 else True):
        try:
            if arguments.command == "tune":
                if task.settings_of:
                    tqdm.write(f"{task.name}: takes the settings of {task.settings_of}")
                    continue
                best = tune(task, name, arguments.steps, command, arguments.results, tiny=arguments.smoke)
                tqdm.write(f"{task.name:16} {name:13} validation loss {score(best):.4g}: {short(best['settings'])}")
            elif too_large(task, name):
                tqdm.write(f"{task.name}: more than {SMALL:,} parameters, too many for {name}")
            else:
                made = run(
                    task,
                    name,
                    range(arguments.seeds),
                    arguments.steps,
                    command,
                    arguments.results,
                    horizon_share=arguments.horizon_share,
                    lr=arguments.lr,
                    by_train_loss=arguments.tuned_by == "train",
                )
                tqdm.write(f"{task.name:16} {name:22} {made} new of {arguments.seeds} runs")
        except (DataMissingError, FileNotFoundError, RuntimeError, ValueError) as error:
            failed.append(f"{task.name} {name}: {error}")
            tqdm.write(failed[-1], file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(pairs)} could not be done:", *failed, sep="\n  ", file=sys.stderr)
    return int(bool(failed))


def measure_costs(tasks: list[Task], names: list[str], command: Sequence[str], folder: Path) -> int:
    """Time all optimizers on each task; those that were not tuned there are named and left out."""
    failed = False
    for task in tqdm(tasks, desc="cost", disable=None):
        makers, settings = {}, {}
        for name in names:
            try:
                if not too_large(task, name):
                    settings[name], _ = settings_of(task, name, HORIZON, folder)
                    makers[name] = maker(name, settings[name], HORIZON)
            except FileNotFoundError as error:
                tqdm.write(f"{task.name} {name}: {error}", file=sys.stderr)
                failed = True
        if makers:
            for row in cost(task, makers, settings, command, folder):
                tqdm.write(f"{task.name:18} {row['optimizer']:22} {row['cpu_ms_per_step']:8.3f} ms per step")
    return int(failed)


def too_large(task: Task, name: str) -> bool:
    """Whether a learned optimizer is for smaller networks only."""
    small_only = name in LEARNED and LEARNED[name].small_only
    return small_only and sum(p.numel() for p in task.build(0).parameters()) > SMALL


def warm_up() -> None:
    """One step, so that what torch loads and prepares in the first step of a process is in nobody's time."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def choose_optimizers(arguments: argparse.Namespace) -> list[str]:
    """Optimizers by name or group; those whose weights are there, unless named."""
    changed = arguments.horizon_share != 1.0 or arguments.lr != 1.0  # which is for learned optimizers
    if arguments.command == "run" and changed and not arguments.optimizer:
        return [NGOPT]
    by_train_loss = arguments.tuned_by == "train"
    words = arguments.optimizer or ["all" if arguments.command != "tune" and not by_train_loss else "rivals"]
    groups = {
        "all": available(),
        "rivals": list(RIVALS),
        "learned": [name for name in available() if name in LEARNED],
    }
    names: dict[str, None] = {}
    for word in words:
        if word not in groups and word not in RIVALS and word not in LEARNED:
            raise ValueError(f"There is no optimizer {word!r}. Known: {', '.join([*groups, *RIVALS, *LEARNED])}.")
        if word in LEARNED and not LEARNED[word].there():
            raise ValueError(f"The weights of {word} are not there.")
        names |= dict.fromkeys(groups.get(word, [word]))
    if learned := [name for name in names if name in LEARNED and arguments.command == "tune"]:
        raise ValueError(f"Learned optimizers are not tuned: {', '.join(learned)}.")
    if learned := [name for name in names if name in LEARNED and by_train_loss]:
        raise ValueError(f"--tuned-by is for rivals, not for {', '.join(learned)}.")
    if rivals := [name for name in names if name in RIVALS and changed]:
        raise ValueError(f"--horizon-share and --lr are for learned optimizers, not for {', '.join(rivals)}.")
    return list(names)


def print_list() -> None:
    """Print tasks, and optimizers with whether their weights are there."""
    for task in choose(["all"]):
        print(f"{task.name:16} {task.group:9} batch {task.batch_size:<4} {task.metric.name:19} {task.about}")
    there = available()
    for name in (*RIVALS, *LEARNED):
        print(f"{name:23} {'tuned' if name in RIVALS else 'learned' if name in there else 'learned, not there'}")


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="tasks and optimizers")
    for name, words in (
        ("tune", "tune rivals on validation data"),
        ("run", "final runs on the test data"),
        ("cost", "what a step of every optimizer costs, in turns in one process"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument(
            "--task", nargs="+", metavar="TASK", help=f"all, {', '.join(GROUPS)}, or of {', '.join(TASKS)}"
        )
        command.add_argument("--optimizer", nargs="+", metavar="NAME", help="all, rivals, learned, or names; see list")
        command.add_argument("--steps", type=int, default=TUNED_STEPS)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--results", type=Path, help="folder of the result files")
        command.add_argument("--smoke", action="store_true", help="20 steps, one seed, a tiny grid, digits")
        command.set_defaults(seeds=5, horizon_share=1.0, lr=1.0, tuned_by="validation")
        if name == "run":
            command.add_argument("--seeds", type=int, default=5, help="how many")
            command.add_argument(
                "--horizon-share", type=float, default=1.0, metavar="SHARE", help="run this share of the steps"
            )
            command.add_argument(
                "--lr", type=float, default=1.0, metavar="X", help="of learned optimizers, as rows of their own"
            )
            command.add_argument(
                "--tuned-by",
                choices=("validation", "train"),
                default="validation",
                help="train: rivals with the settings of the lowest final training loss, as rows of their own",
            )
    command = commands.add_parser("report", help="tables and pictures from the stored rows")
    command.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    command.add_argument("--images", type=Path, default=Path("docs/images"), help="folder for pictures")
    command.add_argument("--pages", type=Path, nargs="*", default=list(PAGES), help="pages to fill in")
    return parser
