"""The fair comparison: NGOptimizer as it comes against rivals at their best, on tasks that meta-training never drew."""
