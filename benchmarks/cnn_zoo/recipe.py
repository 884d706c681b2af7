"""How a run is trained, drawn at random so that accuracies spread from chance to good."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_train.tasks.drawing import chance, choice, log_uniform, uniform

OPTIMIZERS = ("sgd", "adam", "rmsprop")
INITS = ("glorot_normal", "he_normal", "orthogonal", "normal", "truncated_normal")


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one run."""

    optimizer: str  # "sgd" has momentum 0.9
    lr: float
    weight_decay: float  # added to the gradients of weights, times these
    dropout: float  # of whole channels, after each convolution; small zoo
    init: str  # small zoo; the wild zoo has PyTorch's
    init_std: float  # of "normal" and "truncated_normal"


def draw(generator: torch.Generator) -> Recipe:
    """Draw a recipe.

    The published zoo has wider ranges, of which more runs never leave chance, and trains for longer.
    """
    return Recipe(
        optimizer=choice(generator, OPTIMIZERS),
        lr=log_uniform(generator, 5e-4, 5e-2),
        weight_decay=log_uniform(generator, 1e-8, 1e-3),
        dropout=uniform(generator, 0.0, 0.5) if chance(generator, 0.5) else 0.0,
        init=choice(generator, INITS),
        init_std=log_uniform(generator, 3e-2, 0.5),
    )


def initial(
    recipe: Recipe,
    shapes: dict[str, tuple[int, ...]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Weights as the recipe says, zero biases."""
    params = {}
    for name, shape in shapes.items():
        tensor = torch.zeros(shape)
        if len(shape) > 1:
            if recipe.init == "glorot_normal":
                nn.init.xavier_normal_(tensor, generator=generator)
            elif recipe.init == "he_normal":
                nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
            elif recipe.init == "orthogonal":
                nn.init.orthogonal_(tensor, generator=generator)
            elif recipe.init == "normal":
                tensor.normal_(0, recipe.init_std, generator=generator)
            else:
                bound = 2 * recipe.init_std
                nn.init.trunc_normal_(tensor, 0, recipe.init_std, -bound, bound, generator=generator)
        params[name] = tensor
    return params
