"""Compare meta-trained rules on the same runs of validation tasks: ``python -m meta_train.compare A B``.

A and B are checkpoints, by path or name. Both train the same networks from the same initial weights on the same
batches, on every validation family. The answer is the mean over tasks of ``log(final loss of B / final loss of A)``:
above zero, A is better. Its 95 % interval comes from drawing tasks, and seeds within each, again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from meta_train.evaluate import DIVERGED, LAST
from meta_train.inner import make_step, start
from meta_train.intervals import bootstrap_groups
from meta_train.rules import NeuralGraphRule
from meta_train.seeds import derive
from meta_train.tasks import VALIDATION, Task, draw
from meta_train.unroll import Objective, log_losses, unroll
from ngopt.command import run_command
from ngopt.errors import NGOptError
from ngopt.extras import extra
from ngopt.files import read_json, write_json
from ngopt.optim.saving.checkpoint import load_pretrained
from ngopt.tensor_files import content_checksum

DRAWS = {"validation-deep": (0, 1)}  # tanh and ReLU; other families have one task


@dataclass(frozen=True)
class Advantage:
    """How much lower A ends than B.

    Args:
        logs: ``log(loss of B / loss of A)``, ``[task, seed]``.
    """

    logs: np.ndarray

    @property
    def mean(self) -> float:
        """Over tasks and seeds."""
        return float(self.logs.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile interval; tasks are drawn again, and seeds within each."""
        return bootstrap_groups(self.logs.tolist(), lambda means: means.mean(-1))


def read_rule(checkpoint: str) -> NeuralGraphRule:
    """A rule from its checkpoint.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be read.
    """
    source = load_pretrained(checkpoint)
    rule = NeuralGraphRule(source.config)
    rule.start_from(source)
    return rule


def digest(rule: NeuralGraphRule) -> str:
    """Of settings and meta-parameters: what tells two checkpoints of one name apart."""
    return content_checksum(dataclasses.asdict(rule.inner.config), rule.state_dict())[:12]


def final_losses(rule: NeuralGraphRule, task: Task, steps: int, seeds: int) -> list[float]:
    """Logarithm of the mean loss over the last fifth of a run, of each seed; all seeds run as one stack.

    As in meta-training, halving a loss far below `Objective.floor` is worth nothing.
    """
    stack = start(rule, task, count=seeds, horizon=steps, seed=derive("compare", task.name, steps))
    with torch.no_grad():
        _, losses = unroll(make_step(rule, task), dict(rule.named_parameters()), task, stack, steps)
    last = losses[-max(1, round(LAST * steps)) :]
    return torch.nan_to_num(log_losses(last.mean(0), Objective.floor), nan=DIVERGED, posinf=DIVERGED).tolist()


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not stored yet, and print the comparison of each checkpoint with the last one."""
    parser = argparse.ArgumentParser(
        prog="python -m meta_train.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", help="paths or names; each is compared with the last one")
    parser.add_argument("--steps", type=int, default=1000, help="of each run; default 1000")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each task; default 3")
    parser.add_argument("--families", nargs="+", default=VALIDATION, help=f"default: {', '.join(VALIDATION)}")
    parser.add_argument("--out", type=Path, default=Path("runs/compare.json"), help="runs that are stored are kept")
    arguments = parser.parse_args(argv)
    try:
        print(compare(arguments.checkpoints, arguments.families, arguments.steps, arguments.seeds, arguments.out))
    except (NGOptError, ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


def compare(checkpoints: Sequence[str], families: Sequence[str], steps: int, seeds: int, out: Path) -> str:
    """A table for each checkpoint beside the last one; runs go to a file as they come."""
    with extra("train", "comparing rules"):
        from tqdm import tqdm
    rows: dict[str, list[float]] = read_json(out) if out.exists() else {}
    pairs = [(name, seed) for name in families for seed in DRAWS.get(name, (0,))]
    names, rules = {}, {name: read_rule(name) for name in checkpoints}
    digests = {name: digest(rule) for name, rule in rules.items()}

    def key(checkpoint: str, task: str) -> str:
        return f"{digests[checkpoint]} | {task} | {steps} steps | {seeds} seeds"

    bar = tqdm(total=len(pairs) * len(checkpoints), file=sys.stderr)
    for family, seed in pairs:
        task = draw(family, seed)
        names[task.name] = None
        for checkpoint in checkpoints:
            if (run := key(checkpoint, task.name)) not in rows:
                rows[run] = final_losses(rules[checkpoint], task, steps, seeds)
                write_json(out, rows)
            bar.update()
    bar.close()
    *others, last = checkpoints

    def logs(checkpoint: str) -> np.ndarray:  # [task seed]
        return np.array([rows[key(checkpoint, name)] for name in names])

    return "\n\n".join(table(other, last, list(names), Advantage(logs(last) - logs(other))) for other in others)


def table(one: str, other: str, names: list[str], advantage: Advantage) -> str:
    """A line per task, and the mean with its interval."""
    low, high = advantage.interval
    verdict = f"{one} is better" if low > 0 else f"{other} is better" if high < 0 else "no difference"
    lines = [f"{'final loss of the second / the first':42} {one} / {other}"]
    lines += [f"{name:42} {np.exp(own.mean()):.3f}" for name, own in zip(names, advantage.logs, strict=True)]
    return "\n".join([*lines, f"mean of logarithms {advantage.mean:+.4f} [{low:+.4f}, {high:+.4f}]: {verdict}"])


if __name__ == "__main__":
    run_command(main)
