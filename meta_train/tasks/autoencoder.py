"""Autoencoders of images that are MLPs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from meta_train.tasks.augment import batch_size, noisy_images, training_conditions
from meta_train.tasks.base import Task, family
from meta_train.tasks.drawing import choice, integer
from meta_train.tasks.images import DATASETS, Images
from meta_train.tasks.mlp import ACTIVATIONS, INITS, dense, initialised


@family("autoencoder")
def autoencoder(generator: torch.Generator) -> Task:
    """None to two hidden layers on either side of 4 to 32 codes, mirrored; mean squared error of 8 x 8 to 14 x 14."""
    size, codes = choice(generator, (8, 8, 10, 12, 14)), choice(generator, (4, 8, 12, 16, 24, 32))
    hidden = [choice(generator, (32, 48, 64, 96, 128)) for _ in range(integer(generator, 0, 3))]
    widths = [size * size, *sorted(hidden, reverse=True)]
    widths = [*widths, codes, *reversed(widths)]
    activation, init = choice(generator, list(ACTIVATIONS)), choice(generator, INITS)
    conditions = {**noisy_images(generator), "label_noise": 0.0}
    data = Images(choice(generator, DATASETS), size, targets="pixels", **conditions)

    def build() -> nn.Module:
        return initialised(nn.Sequential(nn.Flatten(), *dense(widths, activation)), init)

    name = f"autoencoder {'-'.join(map(str, widths))} {activation} {init} {data.name}"
    batch, training = batch_size(generator), training_conditions(generator, build())
    return Task(name, "autoencoder", build, data, F.mse_loss, batch, **training)
