"""One picture of a finished editing run: test networks before and after, and their targets.

python -m benchmarks.inr_editing.picture runs/inr_editing/mnist-medium/dilation-ng_t-seed0
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.weight_space.config import configure
from benchmarks.weight_space.folder import BEST, read_config
from benchmarks.weight_space.pictures import draw
from benchmarks.weight_space.session import load_networks, make_trainer
from benchmarks.weight_space.tasks import Editing
from ngopt.command import run_command
from ngopt.tensor_files import read_tensors


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, and print where."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inr_editing.picture", description="Picture of a run.")
    parser.add_argument("run", type=Path, help="run directory of an editing run that has ended")
    parser.add_argument("--out", type=Path, help="PNG to write; default: docs/images/inr_editing_TASK_DATASET.png")
    parser.add_argument("--count", type=int, default=10, help="networks; default: 10")
    parser.add_argument("--data-root", type=Path, help="where images and implicit networks are; see meta_train.data")
    arguments = parser.parse_args(argv)
    run = arguments.run
    if not (run / BEST).is_file():
        parser.error(f"{run} has no {BEST}: name the run directory of a run that has ended.")
    config = configure(**read_config(run))
    if config.suite != "inr_editing":
        parser.error(f"{run} is a run of {config.suite}; pictures are of inr_editing.")
    trainer = make_trainer(config, load_networks(config, arguments.data_root), run)
    trainer.model.load_state_dict(read_tensors(run / BEST)[0])
    path = arguments.out or Path("docs/images") / f"inr_editing_{config.task}_{config.dataset}.png"
    name = f"{config.encoder} {config.variant()}".strip()
    assert isinstance(trainer.task, Editing)
    draw(trainer.pictures(trainer.task, "test", arguments.count), path, f"{config.task}, {config.dataset}: {name}")
    print(f"Picture: {path}")


if __name__ == "__main__":
    run_command(main)
