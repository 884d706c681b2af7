"""`python -m benchmarks.cnn_generalization run --help`; also `report` and `save`."""

import sys

from benchmarks.cnn_generalization import predictor
from benchmarks.weight_space import cli, report
from ngopt.command import run_command

COMMANDS = {
    "run": lambda words: cli.main("cnn_generalization", words),
    "report": lambda words: report.main(words),
    "save": lambda words: predictor.main(words),
}


def main(words: list[str]) -> None:
    """Do what the first word says."""
    if not words or words[0] not in COMMANDS:
        sys.exit(
            "python -m benchmarks.cnn_generalization run     train and test a predictor of accuracies\n"
            "python -m benchmarks.cnn_generalization report  tables and pictures of all stored rows\n"
            "python -m benchmarks.cnn_generalization save    make one file of a predictor that was trained\n"
            "Each has --help."
        )
    COMMANDS[words[0]](words[1:])


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
