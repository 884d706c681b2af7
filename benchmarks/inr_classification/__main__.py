"""`python -m benchmarks.inr_classification --help`."""

from benchmarks.weight_space.cli import main
from ngopt.command import run_command

if __name__ == "__main__":
    run_command(lambda: main("inr_classification"))
