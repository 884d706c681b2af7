"""Fully connected models, and unusual ways to use parameters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.zoo.registry import model


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """``x + f(x)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def features(width: int = 5, rows: int = 2) -> tuple[Tensor]:
    """A batch of input vectors."""
    return (torch.randn(rows, width),)


@model("mlp", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 11), nn.GELU(), nn.Linear(11, 3)), features()


@model("siren", expected={"first hidden": (13, 1), "second hidden": (9, 1)})
def siren():
    sine = Lambda(lambda x: torch.sin(3.0 * x))
    return nn.Sequential(nn.Linear(2, 13), sine, nn.Linear(13, 9), sine, nn.Linear(9, 3)), features(2, 6)


@model("residual_mlp", expected={"stream": (11, 1), "first branch": (7, 1), "second branch": (13, 1)})
def residual_mlp():
    def branch(width: int) -> nn.Module:
        return Residual(nn.LayerNorm(11), nn.Linear(11, width), nn.ReLU(), nn.Linear(width, 11))

    return nn.Sequential(nn.Linear(5, 11), branch(7), branch(13), nn.RMSNorm(11), nn.Linear(11, 3)), features()


@model("stream_is_output", expected={"branch": (7, 1)})
def stream_is_output():
    return nn.Sequential(nn.Linear(5, 6), Residual(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 6))), features()


@model("glu", expected={"value with its gate": (7, 1), "plain": (9, 1)})
def glu():
    return nn.Sequential(nn.Linear(5, 14), nn.GLU(), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3)), features()


@model("maxout", expected={"units": (7, 1), "pieces of a unit": (3, 7)})
def maxout():
    pieces = Lambda(lambda x: x.unflatten(-1, (7, 3)).amax(-1))
    return nn.Sequential(nn.Linear(5, 21), pieces, nn.Linear(7, 2)), features()


class Highway(nn.Module):
    """``t f(x) + (1 - t) x``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        t = self.gate(x).sigmoid()
        return t * self.f(x).relu() + (1 - t) * x


@model("highway", expected={"stream": (7, 1)})
def highway():
    return nn.Sequential(nn.Linear(5, 7), Highway(7), Highway(7), nn.Linear(7, 3)), features()


@model("shared_module_twice", expected={"stream": (7, 1), "inside": (11, 1)})
def shared_module_twice():
    body = Residual(nn.Linear(7, 11), nn.SiLU(), nn.Linear(11, 7))
    return nn.Sequential(nn.Linear(5, 7), body, body, nn.Linear(7, 3)), features()


class Siamese(nn.Module):
    """One encoder for two inputs; several inputs in, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 11))
        self.context, self.head = nn.Linear(4, 11), nn.Linear(11, 3)

    def forward(self, a: Tensor, b: Tensor, *, context: Tensor) -> dict[str, Tensor | list[Tensor]]:
        left, right = self.encoder(a), self.encoder(b)
        distance = (left - right).abs()
        return {"logits": self.head(distance * self.context(context)), "aux": [(left * right).sum(-1)]}


@model("several_inputs_dict_output", expected={"inside the encoder": (7, 1), "embedding": (11, 1)})
def several_inputs_dict_output():
    return Siamese(), (torch.randn(2, 5), torch.randn(2, 5)), {"context": torch.randn(2, 4)}


class Functional(nn.Module):
    """Parameters without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.empty(7, 5)), nn.Parameter(torch.empty(7))
        self.second, self.third = nn.Parameter(torch.empty(7, 11)), nn.ParameterList([torch.empty(3, 11)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.first, self.bias).relu()
        return torch.einsum("bi,oi->bo", torch.tanh(x @ self.second), self.third[0])


@model("functional_parameters", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def functional_parameters():
    return Functional(), features()


class Unused(nn.Module):
    """A layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        self.never = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


# Nothing reads the unused tensors, so they have every symmetry and none that matters: none is claimed.
@model("unused_parameters", expected={"hidden": (7, 1)})
def unused_parameters():
    return Unused(), features()


class InPlace(nn.Module):
    """Writes into its activations, views of them included."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 11)
        self.head, self.scale = nn.Linear(11, 3), nn.Parameter(torch.empty(7))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x), inplace=True)
        h.mul_(self.scale).add_(1.0)
        out = torch.zeros(2, 2, 11, dtype=x.dtype)
        out[0] = self.second(h)
        out[1].copy_(out[0]).sigmoid_()
        return self.head(out.sum(0))


@model("in_place", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def in_place():
    return InPlace(), features()


class ValueDependent(nn.Module):
    """Python that branches on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 11), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h.relu() if x.sum() > 0 else h.tanh()
        h = self.second(h)
        for _ in range(int(x.abs().max().item()) % 3):
            h = torch.sin(h)
        return self.head(h)


@model("value_dependent_python", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def value_dependent_python():
    return ValueDependent(), features()


class TiedAutoencoder(nn.Module):
    """Decodes with the transposed encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Parameter(torch.empty(11, 5)), nn.Parameter(torch.empty(7, 11))
        self.bias = nn.Parameter(torch.empty(11))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(F.linear(x, self.outer, self.bias))
        code = torch.tanh(F.linear(h, self.inner))
        return F.linear(torch.tanh(F.linear(code, self.inner.t(), self.bias)), self.outer.t())


@model("tied_autoencoder", expected={"hidden": (11, 1), "code": (7, 1)})
def tied_autoencoder():
    return TiedAutoencoder(), features()


class LoRA(nn.Module):
    """A frozen linear layer plus a learned low-rank one."""

    def __init__(self, ins: int, outs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(ins, outs).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.empty(rank, ins)), nn.Parameter(torch.empty(outs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * (x @ self.down.t()) @ self.up.t()


@model("lora", expected={"hidden": (11, 1), "first rank": (4, 1), "second rank": (2, 1)})
def lora():
    return nn.Sequential(LoRA(5, 11, 4), nn.ReLU(), LoRA(11, 3, 2)), features()


class LoRAMerged(nn.Module):
    """The same, as ``(W + B A) x``, the way a parametrization or a merged adapter computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(5, 11), nn.Linear(11, 3)
        self.down, self.up = nn.Parameter(torch.empty(4, 5)), nn.Parameter(torch.empty(11, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(x, self.base.weight + self.up @ self.down, self.base.bias).relu())


@model("lora_merged", expected={"hidden": (11, 1), "rank": (4, 1)})
def lora_merged():
    return LoRAMerged(), features()


class SoftMoE(nn.Module):
    """A dense mixture of experts with stacked 3-D weights."""

    def __init__(self, width: int = 11, experts: int = 3, hidden: int = 7) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.empty(experts, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.up_bias = nn.Parameter(torch.empty(experts, hidden))

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(torch.einsum("bd,edh->ebh", x, self.up) + self.up_bias[:, None])
        return torch.einsum("ebd,be->bd", torch.bmm(h, self.down), self.gate(x).softmax(-1))


@model("soft_moe", expected={"stream": (11, 1), "experts": (3, 1), "hidden of an expert": (7, 3)})
def soft_moe():
    return nn.Sequential(nn.Linear(5, 11), Residual(SoftMoE()), nn.Linear(11, 2)), features()


class Ensemble(nn.Module):
    """Members side by side, averaged: `torch.func.stack_module_state`, written out."""

    def __init__(self, members: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.empty(members, 5, 7)), nn.Parameter(torch.empty(members, 7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(x @ self.first) @ self.second).mean(0)


@model("ensemble", expected={"members": (4, 1), "hidden of a member": (7, 4)})
def ensemble():
    return Ensemble(), features()


class Bilinear(nn.Module):
    """`nn.Bilinear` between two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(3, 4)
        self.product, self.head = nn.Bilinear(5, 4, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.product(self.left(x).relu(), self.right(x).relu()).tanh())


@model("bilinear", expected={"left": (5, 1), "right": (4, 1), "product": (7, 1)})
def bilinear():
    return Bilinear(), features(3)


class HyperNetwork(nn.Module):
    """One network writes the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = nn.Sequential(nn.Linear(4, 13), nn.ReLU(), nn.Linear(13, 7 * 5))
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return self.head(F.linear(x, self.writer(task).view(7, 5)).tanh())


@model("hypernetwork", expected={"hidden of the writer": (13, 1), "hidden of the written": (7, 1)})
def hypernetwork():
    return HyperNetwork(), (torch.randn(2, 5), torch.randn(4))


class Kan(nn.Module):
    """A Kolmogorov-Arnold layer: one learned curve per edge, as a sum of fixed bumps."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.empty(outs, ins, 4))
        self.register_buffer("grid", torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.grid) ** 2))
        return torch.einsum("big,oig->bo", bumps, self.coefficients)


@model("kan", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def kan():
    return nn.Sequential(Kan(5, 7), Kan(7, 11), Kan(11, 3)), features()


class Scalars(nn.Module):
    """Temperatures, per-channel slopes and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.slopes, self.slope = nn.PReLU(7), nn.PReLU()
        self.layer_scale, self.temperature = nn.Parameter(torch.empty(7)), nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.first(x))
        x = x + self.layer_scale * self.slope(self.second(x))
        return self.head(x) * self.temperature.exp()


@model("scalars_and_scales", expected={"stream": (7, 1)})
def scalars_and_scales():
    return Scalars(), features()


class Cosine(nn.Module):
    """Unit vectors: features and class prototypes are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.prototypes = nn.Linear(5, 7), nn.Parameter(torch.empty(4, 7))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.first(x).relu(), dim=-1) @ F.normalize(self.prototypes, dim=-1).mT


@model("cosine_classifier", expected={"features": (7, 1)})
def cosine_classifier():
    return Cosine(), features()


@model("weight_norm", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def weight_norm():
    wrap = parametrizations.weight_norm
    first, second = wrap(nn.Linear(5, 7)), wrap(nn.Linear(7, 11))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(11, 3)), features()


@model("spectral_norm", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def spectral_norm():
    wrap = parametrizations.spectral_norm
    first, second = wrap(nn.Linear(5, 7)), wrap(nn.Linear(7, 11))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(11, 3)), features()


@model("spectral_norm_hook", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def spectral_norm_hook():
    wrap = nn.utils.spectral_norm
    first, second = wrap(nn.Linear(5, 7)), wrap(nn.Linear(7, 11))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(11, 3)), features()


class FourierFeatures(nn.Module):
    """Coordinates through a fixed random matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 6))
        self.body = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x @ self.frequencies
        return self.body(torch.cat([angle.sin(), angle.cos()], -1))


@model("fourier_features", expected={"hidden": (7, 1)})
def fourier_features():
    return FourierFeatures(), features(2)


class NeRF(nn.Module):
    """A skip connection back to the input, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 7), nn.Linear(7 + 3, 11)
        self.density, self.colour = nn.Linear(11, 1), nn.Linear(11 + 2, 3)

    def forward(self, x: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        h = self.second(torch.cat([self.first(x).relu(), x], -1)).relu()
        return F.softplus(self.density(h)), self.colour(torch.cat([h, view], -1)).sigmoid()


@model("nerf", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def nerf():
    return NeRF(), (torch.randn(4, 3), torch.randn(4, 2))


class Triplane(nn.Module):
    """Three learned feature planes, read where a point falls on each, added up, and decoded."""

    def __init__(self, channels: int = 6, size: int = 5) -> None:
        super().__init__()
        self.xy, self.xz, self.yz = (nn.Parameter(torch.empty(1, channels, size, size)) for _ in range(3))
        self.body = nn.Sequential(nn.Linear(channels, 7), nn.ReLU(), nn.Linear(7, 4))

    def forward(self, points: Tensor) -> Tensor:
        places = ((self.xy, [0, 1]), (self.xz, [0, 2]), (self.yz, [1, 2]))
        found = [F.grid_sample(plane, points[None, None][..., axes], align_corners=True) for plane, axes in places]
        return self.body(sum(found)[0, :, 0].mT)


@model("triplane", expected={"features": (6, 1), "hidden": (7, 1)})
def triplane():
    return Triplane(), (torch.rand(4, 3) * 2 - 1,)


class EmbeddingBag(nn.Module):
    """Mean of word vectors; several tables with one factor space."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.user = nn.EmbeddingBag(17, 7, mode="mean"), nn.Embedding(13, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, words: Tensor, user: Tensor) -> Tensor:
        return self.head(self.words(words) * self.user(user))


@model("embedding_bag", expected={"factors": (7, 1)})
def embedding_bag():
    return EmbeddingBag(), (torch.randint(17, (2, 6)), torch.tensor([3, 8]))


class Factorisation(nn.Module):
    """A factorisation machine: the output is made of dot products of embeddings alone."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.bias = nn.Embedding(13, 7), nn.Embedding(17, 7), nn.Embedding(17, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(-1) + self.bias(item)[..., 0]


@model("factorisation_machine", expected={"factors": (7, 1)})
def factorisation_machine():
    return Factorisation(), (torch.tensor([3, 8, 1]), torch.tensor([0, 16, 5]))


class FakeQuantised(nn.Linear):
    """Rounded weights that gradients see through: by torch's op, or by hand."""

    def __init__(self, ins: int, outs: int, by_hand: bool) -> None:
        super().__init__(ins, outs)
        self.by_hand = by_hand

    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.detach().abs().max() / 127
        if self.by_hand:
            weight = self.weight + ((self.weight / step).round() * step - self.weight).detach()
        else:
            weight = torch.fake_quantize_per_tensor_affine(self.weight, 0.02, 0, -128, 127)
        return F.linear(x, weight, self.bias)


@model("fake_quantised", expected={"first hidden": (7, 1), "second hidden": (11, 1)})
def fake_quantised():
    first, second = FakeQuantised(5, 7, by_hand=True), FakeQuantised(7, 11, by_hand=False)
    return nn.Sequential(first, nn.Tanh(), second, nn.GELU(), nn.Linear(11, 3)), features()
