"""The networks of the zoos: convolutions with residual connections, and tokens that mix or attend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.cnn_zoo.layers import Conv, TokenBlock, output_sides
from meta_train.tasks.transformer import Attention

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORM_GROUPS = 4  # of GroupNorm
NORMS = {  # of channels
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over channels and pixels
    "group": lambda channels: nn.GroupNorm(NORM_GROUPS, channels),
}


class ConvNet(nn.Module):
    """Convolution, norm, what an earlier layer adds, activation; as often as there are layers; then a linear head."""

    def __init__(self, image: tuple[int, int, int], layers: tuple[Conv, ...], head: str, classes: int) -> None:
        super().__init__()
        widths = [image[0], *(layer.channels for layer in layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, layer.channels, layer.kernel, layer.stride, layer.padding)
            for width, layer in zip(widths, layers, strict=False)
        )
        self.norms = nn.ModuleList(NORMS[layer.norm](layer.channels) for layer in layers)
        self.activations = nn.ModuleList(ACTIVATIONS[layer.activation]() for layer in layers)
        self.shortcuts = nn.ModuleDict(
            {str(i): _shortcut(layers, i) for i, layer in enumerate(layers) if layer.source is not None}
        )
        self.sources = [layer.source for layer in layers]
        self.pool = head == "pool"
        pixels = 1 if self.pool else output_sides(layers, image[1])[-1] ** 2
        self.head = nn.Linear(layers[-1].channels * pixels, classes)

    def forward(self, x: Tensor) -> Tensor:  # [image, channel, height, width] -> [image, class]
        """Logits."""
        outputs: list[Tensor] = []
        for i, (conv, norm, activation) in enumerate(zip(self.convs, self.norms, self.activations, strict=True)):
            x = norm(conv(x))
            if str(i) in self.shortcuts:
                x = x + self.shortcuts[str(i)](outputs[self.sources[i]])
            x = activation(x)
            outputs.append(x)
        return self.head(x.mean((2, 3)) if self.pool else x.flatten(1))


def _shortcut(layers: tuple[Conv, ...], target: int) -> nn.Module:
    """The identity, or where channels or pixels differ a 1x1 convolution."""
    source = layers[target].source
    assert source is not None
    stride = 1
    for layer in layers[source + 1 : target + 1]:
        stride *= layer.stride
    before, after = layers[source].channels, layers[target].channels
    return nn.Identity() if (before, stride) == (after, 1) else nn.Conv2d(before, after, 1, stride)


class TokenNet(nn.Module):
    """Patches as tokens, learned positions, blocks that mix or attend, and a linear head on the mean of all tokens."""

    def __init__(
        self, image: tuple[int, int, int], patch: int, width: int, blocks: tuple[TokenBlock, ...], classes: int
    ) -> None:
        super().__init__()
        channels, height, _ = image
        tokens = (height // patch) ** 2
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(tokens, width, block) for block in blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # [image, channel, height, width] -> [image, class]
        """Logits."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.positions  # [image, token, width]
        return self.head(self.norm(self.blocks(x)).mean(1))


class Block(nn.Module):
    """``x + across(norm(x))``, then ``x + within(norm(x))``: attention or an MLP across tokens, an MLP within each."""

    def __init__(self, tokens: int, width: int, block: TokenBlock) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixes = block.kind == "mix"
        if self.mixes:
            self.across = _mlp(tokens, block.hidden, block.activation)
        else:
            self.across = Attention(width, block.heads, causal=False, packed=False)
        self.within = _mlp(width, block.hidden, block.activation)

    def forward(self, x: Tensor) -> Tensor:  # [image, token, width], same shape
        """Same shape."""
        y = self.norm1(x)
        x = x + (self.across(y.transpose(1, 2)).transpose(1, 2) if self.mixes else self.across(y))
        return x + self.within(self.norm2(x))


def _mlp(width: int, hidden: int, activation: str) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width))
