"""Train many CNNs of one architecture at once, each by its own recipe: one grouped convolution per layer.

All networks of a stack see the same images at the same step, so that the first layer is one ordinary convolution.
A grouped convolution is about 1.4 times as fast as `torch.func.vmap` on one CPU core, and 1.6 times as fast as one
network after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cnn_zoo.architecture import Architecture
from benchmarks.cnn_zoo.recipe import Recipe

Params = dict[str, Tensor]  # each [net, *shape]
MOMENTUM = {"sgd": 0.9, "adam": 0.9, "rmsprop": 0.0}
MEMORY = {"sgd": 1.0, "adam": 0.999, "rmsprop": 0.9}  # of squared gradients
EPS = 1e-7
CPU_IMAGES, GPU_IMAGES = 50, 1000  # tested at once: a CPU's caches hold the activations of few


class TrainingStack:
    """Networks in training.

    Args:
        architecture: Convolutions without norms and residual connections, and a pooling head.
        params: Where the networks start.
        recipes: One for each network.
        generator: On the CPU; decides which channels are dropped.
    """

    def __init__(
        self, architecture: Architecture, params: Params, recipes: Sequence[Recipe], generator: torch.Generator
    ) -> None:
        self.architecture, self.generator, self.steps = architecture, generator, 0
        self.shapes = {name: tensor.shape for name, tensor in params.items()}
        self.flat = torch.cat([tensor.flatten(1) for tensor in params.values()], dim=1)  # [net, entry]
        self.mean, self.square = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        decayed = torch.cat([torch.full_like(t[0], t.ndim > 2).flatten() for t in params.values()])

        def column(values: Sequence[float]) -> Tensor:  # [net, 1]
            return torch.tensor(values, dtype=self.flat.dtype, device=self.flat.device).unsqueeze(1)

        names = [recipe.optimizer for recipe in recipes]
        self.lr = column([recipe.lr for recipe in recipes])
        self.decay = column([recipe.weight_decay for recipe in recipes]) * decayed  # [net, entry]
        self.dropout = column([recipe.dropout for recipe in recipes])
        self.momentum, self.memory = column([MOMENTUM[n] for n in names]), column([MEMORY[n] for n in names])
        self.sgd, self.adam = column([n == "sgd" for n in names]).bool(), column([n == "adam" for n in names]).bool()

    def params(self) -> Params:
        """The parameters as they are now; they share memory with the stack."""
        parts = self.flat.split([shape[1:].numel() for shape in self.shapes.values()], dim=1)
        return {name: part.reshape(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of each network.

        Args:
            x: float32 [image, 1, height, width]
            y: int64 [image]
        """
        params = {name: tensor.requires_grad_() for name, tensor in self._leaves().items()}
        loss = _losses(forward(self.architecture, params, x, self.dropout, self.generator), y).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(params.values()))
        gradient = torch.cat([tensor.flatten(1) for tensor in gradients], dim=1)
        gradient += self.decay * self.flat
        self.steps += 1
        one = torch.ones_like(self.lr)
        # Momentum: of sgd a sum, of adam a mean without bias; rmsprop has none.
        self.mean.mul_(self.momentum).add_(torch.where(self.adam, 1 - self.momentum, one) * gradient)
        self.square.mul_(self.memory).add_((1 - self.memory) * gradient.square())
        first = torch.where(self.adam, 1 - self.momentum**self.steps, one)
        second = torch.where(self.adam, 1 - self.memory**self.steps, one)
        scale = torch.where(self.sgd, one, (self.square / second).sqrt() + EPS)
        self.flat -= self.lr * (self.mean / first) / scale

    def _leaves(self) -> Params:
        return {name: tensor.detach().clone() for name, tensor in self.params().items()}


def forward(
    architecture: Architecture,
    params: Params,
    x: Tensor,  # [image, 1, height, width]
    dropout: Tensor | None = None,  # [net, 1]: the share of channels that is dropped after each convolution
    generator: torch.Generator | None = None,
) -> Tensor:  # [net, image, class]
    """Logits of all networks for the same images."""
    nets, images = len(params["head.weight"]), len(x)
    for i, layer in enumerate(architecture.layers):
        weight, bias = params[f"convs.{i}.weight"].flatten(0, 1), params[f"convs.{i}.bias"].flatten()
        x = F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=nets if i else 1)
        x = F.relu(x) if layer.activation == "relu" else torch.tanh(x)
        if dropout is not None:
            keep = torch.rand(images, nets, layer.channels, generator=generator).to(x.device) >= dropout
            x = x * (keep / (1 - dropout)).reshape(images, -1, 1, 1)
    x = x.mean((2, 3)).unflatten(1, (nets, -1)).transpose(0, 1)  # [net, image, channel]
    return torch.baddbmm(params["head.bias"].unsqueeze(1), x, params["head.weight"].transpose(1, 2))


def _losses(logits: Tensor, y: Tensor) -> Tensor:  # [net, image, class], [image] -> [net, image]
    nets = len(logits)
    return F.cross_entropy(logits.flatten(0, 1), y.repeat(nets), reduction="none").view(nets, -1)


@torch.no_grad()
def evaluate(architecture: Architecture, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracies from 0 to 1 and mean losses of all networks, each [net], on the CPU."""
    right, loss = [], []
    for images, labels in chunks(x, y):
        logits = forward(architecture, params, images)
        right.append((logits.argmax(-1) == labels).sum(1))
        loss.append(_losses(logits, labels).sum(1))
    return (torch.stack(right).sum(0) / len(y)).cpu(), (torch.stack(loss).sum(0) / len(y)).cpu()


def chunks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their labels, some at a time."""
    count = CPU_IMAGES if x.device.type == "cpu" else GPU_IMAGES
    return zip(x.split(count), y.split(count), strict=True)


def batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of images, epoch after epoch in new order, without end; a remainder is dropped."""
    batch = min(batch, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for at in range(0, count - batch + 1, batch):
            yield order[at : at + batch]
