"""Convolutional models, written out; the real ones of timm, torchvision and transformers are in `vision`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.dense import Lambda, Residual
from tests.zoo.registry import model


def image(channels: int = 2, size: int = 8) -> tuple[Tensor]:
    """A batch of images."""
    return (torch.randn(2, channels, size, size),)


def head(channels: int, classes: int = 3) -> list[nn.Module]:
    """Global average pooling and a linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


@model("cnn_flatten", expected={"first": (7, 1), "second, a slot per pixel": (5, 1), "hidden": (11, 1)})
def cnn_flatten():
    return (
        nn.Sequential(
            nn.Conv2d(2, 7, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(7, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 11), nn.ReLU(), nn.Linear(11, 3),
        ),
        image(),
    )  # fmt: skip


@model("cnn_batch_norm_pooling", expected={"first": (7, 1), "second": (11, 1)})
def cnn_batch_norm_pooling():
    first = [nn.Conv2d(2, 7, 3, stride=2, bias=False), nn.BatchNorm2d(7), nn.ReLU()]
    second = [nn.Conv2d(7, 11, 3, padding=1, bias=False), nn.BatchNorm2d(11), nn.ReLU()]
    return nn.Sequential(*first, *second, *head(11)), image()


@model("vgg", expected={"1": (5, 1), "2": (7, 1), "3": (11, 1), "4": (6, 1), "hidden": (13, 1)})
def vgg():
    def stage(ins: int, middle: int, outs: int) -> list[nn.Module]:
        first = [nn.Conv2d(ins, middle, 3, padding=1), nn.BatchNorm2d(middle), nn.ReLU(inplace=True)]
        second = [nn.Conv2d(middle, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
        return [*first, *second, nn.MaxPool2d(2, 2)]

    classifier = [nn.Flatten(), nn.Linear(6 * 4, 13), nn.ReLU(True), nn.Dropout(), nn.Linear(13, 3)]
    return nn.Sequential(*stage(2, 5, 7), *stage(7, 11, 6), nn.AdaptiveAvgPool2d(2), *classifier), image()


class Block(nn.Module):
    """A residual block whose shortcut may be a convolution."""

    def __init__(self, ins: int, hidden: int, outs: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(ins, hidden, 3, stride, 1), nn.Conv2d(hidden, outs, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(hidden), nn.BatchNorm2d(outs)])
        self.shortcut = nn.Identity() if ins == outs and stride == 1 else nn.Conv2d(ins, outs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(h + self.shortcut(x))


@model(
    "resnet",
    expected={"stream": (6, 1), "inside": (5, 1), "wider stream": (10, 1), "inside 2": (7, 1), "inside 3": (9, 1)},
)
def resnet():
    blocks = [Block(6, 5, 6), Block(6, 7, 10, 2), Block(10, 9, 10)]
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), *blocks, *head(10)), image()


@model("depthwise_separable", expected={"first": (7, 1), "second": (11, 1)})
def depthwise_separable():
    def separable(ins: int, outs: int) -> list[nn.Module]:
        return [nn.Conv2d(ins, ins, 3, groups=ins), nn.BatchNorm2d(ins), nn.ReLU6(), nn.Conv2d(ins, outs, 1)]

    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), *separable(7, 11), nn.ReLU6(), *head(11)), image()


@model("depthwise_multiplier", expected={"channels": (7, 1), "outputs of a channel": (2, 7)})
def depthwise_multiplier():
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), nn.Conv2d(7, 14, 3, groups=7), nn.ReLU(), *head(14)), image()


class SqueezeExcite(nn.Module):
    """Channel attention by two dense layers."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


@model("squeeze_excite", expected={"channels": (7, 1), "squeezed": (3, 1)})
def squeeze_excite():
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7), SqueezeExcite(7, 3), *head(7)), image()


@model("grouped", expected={"groups": (3, 1), "inputs of a group": (4, 3), "outputs of a group": (5, 3)})
def grouped():
    return nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 15, 3, groups=3), nn.ReLU(), *head(15)), image()


# Two grouped convolutions in a row stay in their groups: 3 towers.
@model("grouped_twice", expected={"towers": (3, 1), "1": (4, 3), "2": (5, 3), "3": (2, 3)})
def grouped_twice():
    towers = [nn.Conv2d(12, 15, 3, groups=3), nn.ReLU(), nn.Conv2d(15, 6, 1, groups=3, bias=False), nn.ReLU()]
    return nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), *towers, *head(6)), image()


# After the shuffle every group reads one channel of each group before: rows and columns of a 3 x 3 grid of channels.
@model(
    "channel_shuffle",
    expected={
        "inputs of a group before": (4, 3),
        "groups before": (3, 1),
        "groups after": (3, 1),
        "outputs of a group after": (5, 3),
    },
)
def channel_shuffle():
    before = [nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 9, 1, groups=3), nn.BatchNorm2d(9), nn.ReLU()]
    after = [nn.Conv2d(9, 9, 3, groups=9), nn.BatchNorm2d(9), nn.Conv2d(9, 15, 1, groups=3), nn.ReLU()]
    return nn.Sequential(*before, nn.ChannelShuffle(3), *after, *head(15)), image()


class UNet(nn.Module):
    """Encoder, decoder and a skip by concatenation, with GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(3, 6), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 10, 3, padding=1), nn.GroupNorm(2, 10), nn.SiLU())
        self.up = nn.ConvTranspose2d(10, 4, 2, stride=2)
        self.decode = nn.Sequential(nn.Conv2d(10, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        return self.decode(torch.cat([self.up(self.deep(skip)), skip], 1))


@model(
    "unet",
    expected={
        "norm groups of the skip": (3, 1),
        "channels in each": (2, 3),
        "deep norm groups": (2, 1),
        "deep channels in each": (5, 2),
        "upsampled": (4, 1),
        "decoder": (9, 1),
    },
)
def unet():
    return UNet(), image()


@model("conv_norms", expected={"batch norm": (7, 1), "instance norm": (5, 1), "one group": (9, 1), "plain": (4, 1)})
def conv_norms():
    return (
        nn.Sequential(
            nn.Conv2d(2, 7, 3, padding=1), nn.BatchNorm2d(7, affine=False), nn.ReLU(),
            nn.Conv2d(7, 5, 3, padding=1), nn.InstanceNorm2d(5, affine=True, track_running_stats=True), nn.ReLU(),
            nn.Conv2d(5, 9, 3, padding=1), nn.GroupNorm(1, 9), nn.ReLU(),
            nn.Conv2d(9, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.LeakyReLU(), *head(4),
        ),
        image(),
    )  # fmt: skip


@model("resizing", expected={"1": (7, 1), "2": (5, 1), "3": (6, 1), "4": (4, 1), "5": (9, 1)})
def resizing():
    return (
        nn.Sequential(
            nn.Conv2d(2, 7, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.AvgPool2d(2),
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(7, 5, 3, padding=1, padding_mode="circular"),
            nn.ReLU(), nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(5, 6, 3, stride=2), nn.ELU(),
            nn.ZeroPad2d(1), nn.Conv2d(6, 4, 3, dilation=2), nn.Tanh(), nn.PixelUnshuffle(5),
            nn.Conv2d(4 * 25, 9, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(9, 2),
        ),
        image(),
    )  # fmt: skip


# Average pooling forgets where the four pixels of a block were, so they can be exchanged within each channel.
@model("pixel_shuffle_pooled", expected={"first": (7, 1), "channels": (3, 1), "pixels in a block": (4, 3)})
def pixel_shuffle_pooled():
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), nn.Conv2d(7, 12, 1), nn.PixelShuffle(2), *head(3, 2)), image()


# A convolution tells the pixels apart. Its three channels could still be exchanged, four rows of the convolution before
# it at a time; but ids that run over channels and pixels at once are frozen: sound, not maximal.
@model("pixel_shuffle", expected={"first": (7, 1), "last": (5, 1)})
def pixel_shuffle():
    up = [nn.Conv2d(7, 12, 1), nn.PixelShuffle(2), nn.Conv2d(3, 5, 3), nn.ReLU(), *head(5, 2)]
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), *up), image()


@model("conv1d", expected={"stream": (7, 1), "inside": (5, 1), "towers": (2, 1), "in": (3, 2), "out": (4, 2)})
def conv1d():
    def branch(dilation: int) -> nn.Module:
        body = [nn.Conv1d(7, 5, 3, padding=dilation, dilation=dilation), nn.GELU(), nn.Conv1d(5, 7, 1)]
        return Residual(nn.BatchNorm1d(7), *body)

    up = [nn.Conv1d(7, 6, 1), nn.Tanh(), nn.ConvTranspose1d(6, 8, 4, stride=2, groups=2), nn.ReLU(), nn.Conv1d(8, 2, 1)]
    return nn.Sequential(nn.Conv1d(3, 7, 3), branch(2), *up), (torch.randn(2, 3, 10),)


@model("conv3d", expected={"first": (5, 1), "second": (7, 1)})
def conv3d():
    first = [nn.Conv3d(2, 5, 3, padding=1), nn.BatchNorm3d(5), nn.ReLU()]
    second = [nn.Conv3d(5, 7, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(56, 2)]
    return nn.Sequential(*first, *second), (torch.randn(2, 2, 6, 6, 6),)


class WeightStandardised(nn.Conv2d):
    """Filters with zero mean and unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


@model("weight_standardisation", expected={"first": (7, 1), "second": (11, 1)})
def weight_standardisation():
    first, second = WeightStandardised(2, 7, 3), WeightStandardised(7, 11, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head(11)), image()


@model("global_pools", expected={"mean and max": (7, 1), "hidden": (11, 1)})
def global_pools():
    # a channel that is concatenated with itself is still one channel, with two slots
    both = Lambda(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
    return nn.Sequential(nn.Conv2d(2, 7, 3), nn.ReLU(), both, nn.Linear(14, 11), nn.ReLU(), nn.Linear(11, 3)), image()
