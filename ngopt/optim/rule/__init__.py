"""What a step is: the parts of the formula in `ngopt.optim.update`, each a pure function or a small module."""
