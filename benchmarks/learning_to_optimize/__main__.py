"""``python -m benchmarks.learning_to_optimize``."""

from benchmarks.learning_to_optimize.cli import main
from ngopt.command import run_command

if __name__ == "__main__":
    run_command(main)
