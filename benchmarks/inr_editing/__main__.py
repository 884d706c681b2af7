"""`python -m benchmarks.inr_editing --help`."""

from benchmarks.weight_space.cli import main

if __name__ == "__main__":
    main("inr_editing")
