"""Meta-train a learned optimizer.

    python -m meta_train quick
    torchrun --nproc-per-node 2 -m meta_train base      # the same weights, to the bit, sooner

The run can be stopped at any moment; the same command goes on from its last state and ends with the same weights. It
leaves `NAME.safetensors` for `ngopt.NGOptimizer(model, pretrained=...)`, with a model card, in its folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from meta_train.card import make_card
from meta_train.config import read_config, shipped_configs
from meta_train.folder import RunFolder
from meta_train.log import Log, draw_validation
from meta_train.parallel import Processes
from meta_train.rules import make_rule
from meta_train.trainer import Trainer
from ngopt.command import run_command
from ngopt.errors import NGOptError
from ngopt.extras import extra
from ngopt.files import locked


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and write the checkpoint."""
    parser = argparse.ArgumentParser(
        prog="python -m meta_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help=f"{', '.join(shipped_configs())}, or a TOML file")
    parser.add_argument("--out", type=Path, help="folder of the run; default: runs/meta_train/NAME")
    parser.add_argument("--until", type=int, metavar="N", help="stop after N iterations in all, for now")
    parser.add_argument("--threads", type=int, default=1, help="of each process; default 1, which is the fastest")
    parser.add_argument("--device", help="cpu, cuda, or cuda:N; default: cuda if there is one, one GPU per process")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        config = read_config(arguments.config)
        processes = Processes()
        out = arguments.out or Path("runs/meta_train") / config.name
        with locked(out) if processes.first else nullcontext():
            folder = RunFolder(out, config, processes)
            rule = make_rule(config.kind, config.rule, config.init).to(arguments.device or processes.device())
            trainer = Trainer(config, rule, folder, processes)
            train(trainer, min(config.iterations, arguments.until or config.iterations))
            if processes.first and trainer.done:
                command = ["python", "-m", "meta_train", str(arguments.config)]  # all that decides about the weights
                print(finish(trainer, command))
            processes.close()
    except (NGOptError, ImportError, OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


def train(trainer: Trainer, until: int) -> None:
    """Iterate, validate and save until an iteration."""
    with extra("train", "meta-training"):
        from tqdm import tqdm
    config, first = trainer.config, trainer.processes.first
    progress = trainer.progress
    log = Log(trainer.folder, progress.iteration) if first else None
    bar = tqdm(
        total=config.iterations, initial=progress.iteration, desc=config.name, disable=not first, file=sys.stderr
    )
    if log is not None and config.init and progress.iteration == 0:
        trainer.evaluate()  # what it starts from may be the best
    while progress.iteration < until:
        before = progress.steps
        row = trainer.iterate()
        last = progress.iteration == config.iterations
        if log is not None:
            log.iteration(row, progress.steps - before)
            if last or progress.iteration % config.evaluation.every == 0:
                rows = trainer.evaluate()
                assert trainer.validation is not None
                log.evaluation(rows, trainer.rule, trainer.outer.average, trainer.validation.statistics)
            bar.set_postfix(best=f"{progress.best_score:+.4f}", dropped=progress.dropped)
        bar.update()
        if last or progress.iteration % config.checkpoint_every == 0 or progress.iteration == until:
            trainer.save()
    bar.close()
    if log is not None:
        log.close()


def finish(trainer: Trainer, command: Sequence[str]) -> str:
    """Write checkpoint, card and picture; returns what to print."""
    config, folder, progress = trainer.config, trainer.folder, trainer.progress
    path = folder.path / f"{config.name}.safetensors"
    trainer.rule.save(trainer.best, path, make_card(config, progress, command))
    rows = [row for row in folder.read_log() if row.get("kind") == "validation"]
    draw_validation(rows, folder.path / "validation.png", config.name)
    lines = [
        f"Best on validation: iteration {progress.best_iteration}, "
        f"{progress.best_strength:g} of the learned deviation.",
        "",
        f"{'validation family':24} {'steps':>6} {'untrained':>10} {'trained':>10} {'ratio':>7}",
        *(
            f"{e['family']:24} {e['horizon']:6d} {e['untrained']:10.4f} {e['trained']:10.4f} {e['ratio']:7.3f}"
            for e in progress.best_table
        ),
        "",
        f"Final training losses (geometric means); {progress.dropped} optimizees dropped, "
        f"{len(progress.skipped_tasks)} tasks skipped.",
        f"Checkpoint: {path}\nPicture:    {folder.path / 'validation.png'}\n"
        f"Logs:       tensorboard --logdir {folder.path / 'tensorboard'}",
    ]
    if progress.best_score >= 0.0:
        lines.insert(0, "No iteration beat the untrained rule on the validation families.")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
