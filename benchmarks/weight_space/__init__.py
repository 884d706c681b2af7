"""What all suites that learn from weights share: settings, augmentation, baselines, training, results, report."""
