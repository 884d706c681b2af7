"""List the shipped checkpoints, print the model card of any, or write the untrained one again.

python -m ngopt.pretrained
python -m ngopt.pretrained ngopt-base
python -m ngopt.pretrained --write-untrained
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ngopt.command import run_command
from ngopt.optim.rule.config import UpdateConfig
from ngopt.optim.saving.checkpoint import (
    DEFAULT_PRETRAINED,
    SHIPPED,
    UNTRAINED,
    default_name,
    read_card,
    save_pretrained,
    shipped,
)
from ngopt.optim.update import UpdateRule

UNTRAINED_CARD = {
    "status": "untrained",
    "what_it_is": "The starting point of meta-training: every gain is one and every exponent zero, so the optimizer is "
    "exactly SOAP in the matrix views of the neural graph for weights, and Adam for biases, norm scales and "
    "embeddings, with step sizes that follow from shapes, roles and initial weights. The encoder has its random "
    "initial values and no influence.",
    "training_data": "none",
    "training_time": "none",
    "licence": "MIT",
    "limits": "It is the hand-made rule, no better and no worse. Nothing about it is learned.",
    "made_by": "python -m ngopt.pretrained --write-untrained",
}


def main(argv: Sequence[str] | None = None) -> None:
    """List the shipped checkpoints, print the card of one (or of a file), or write the untrained one again."""
    parser = argparse.ArgumentParser(prog="python -m ngopt.pretrained", description=main.__doc__)
    parser.add_argument(
        "name_or_path", nargs="?", help="print this checkpoint's model card; without it, list what is shipped"
    )
    parser.add_argument("--write-untrained", metavar="DIR", nargs="?", const=str(SHIPPED), help="default: the package")
    arguments = parser.parse_args(argv)
    if arguments.write_untrained:
        target = Path(arguments.write_untrained) / (DEFAULT_PRETRAINED + UNTRAINED)
        print(save_pretrained(UpdateRule(UpdateConfig()), target, card=UNTRAINED_CARD))
    elif arguments.name_or_path:
        for key, value in read_card(arguments.name_or_path).items():
            print(f"{key}: {value}")
    else:
        for name in shipped():
            default = ", the default" if name == default_name() else ""
            print(f"{name}: {read_card(name)['status']}{default}")


if __name__ == "__main__":
    run_command(main)
