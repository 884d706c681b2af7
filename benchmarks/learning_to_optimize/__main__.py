"""``python -m benchmarks.learning_to_optimize``."""

from benchmarks.learning_to_optimize.cli import main

if __name__ == "__main__":
    main()
