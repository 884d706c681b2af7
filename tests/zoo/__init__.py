"""The zoo: small models of many architectures, with the symmetries that each is known to have.

Add a model: write a factory in the file of its family and decorate it with `model`. Every test over the zoo (graph,
certificate, encoders, optimizer) then sweeps it. ``python -m tests.zoo`` prints a table of all models.
"""

from tests.zoo import attention, convolution, dense, language, recurrent, sets, vision
from tests.zoo.registry import MODELS, Case, Model

__all__ = ["MODELS", "Case", "Model", "attention", "convolution", "dense", "language", "recurrent", "sets", "vision"]
