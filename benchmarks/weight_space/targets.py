"""What edited pictures should look like, made from the original images in [0, 1], ``[net, channel, height, width]``.

Dilation and erosion are those of OpenCV with a 3 x 3 kernel of ones, one iteration: what lies outside the picture
never counts. Contrast is a stretch about the mean grey of each picture, as in Pillow and torchvision; the published
target for CIFAR-10 (CLAHE, which adapts to each region) is another one, so numbers for contrast compare among our own
rows only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

CONTRAST = 1.5  # factor
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def dilation(images: Tensor) -> Tensor:
    """Largest value of every 3 x 3 neighbourhood; max-pooling pads with minus infinity."""
    return F.max_pool2d(images, 3, stride=1, padding=1)


def erosion(images: Tensor) -> Tensor:
    """Smallest value of every 3 x 3 neighbourhood."""
    return -dilation(-images)


def contrast(images: Tensor, factor: float = CONTRAST) -> Tensor:
    """Distances to the picture's mean grey times ``factor``, cut off at 0 and 1."""
    channels = images.shape[1]
    shares = images.new_tensor(GREY if channels == 3 else [1.0 / channels] * channels)
    grey = (images * shares.view(-1, 1, 1)).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return (grey + factor * (images - grey)).clamp(0, 1)


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"dilation": dilation, "erosion": erosion, "contrast": contrast}
