"""Entry points for `torch.hub`: ``torch.hub.load("ngopt/ngopt", "NGOptimizer", model, total_steps=1000)``.

Each is the function or class of the same name in `ngopt` or `ngopt.encoder`; ``torch.hub.help`` shows what it takes.
"""

from ngopt import NGOptimizer, load_pretrained, trace
from ngopt.encoder import load_reader

dependencies = ["torch", "numpy", "safetensors", "einops"]

__all__ = ["NGOptimizer", "load_pretrained", "load_reader", "trace"]
