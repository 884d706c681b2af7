"""What all benchmarks share: rivals, a training loop, seeds, results with where they came from, pictures."""
