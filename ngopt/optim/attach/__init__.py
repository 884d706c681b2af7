"""From what the user passes to a graph: the module, its first forward pass, and which parameter is which block."""
