"""The formula in place, on stacks of equal tensors: what the deployed optimizer runs."""
