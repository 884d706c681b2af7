"""`python -m benchmarks.inr_classification --help` trains and tests; `... save` makes a file of what was trained."""

import sys

from benchmarks.inr_classification import saving
from benchmarks.weight_space.cli import main
from ngopt.command import run_command

if __name__ == "__main__":
    saves = sys.argv[1:2] == ["save"]
    run_command(lambda: saving.main(sys.argv[2:]) if saves else main("inr_classification"))
