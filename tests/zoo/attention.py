"""Attention, written with `torch.nn` or by hand; real transformers are in `vision` and `language`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.dense import Residual
from tests.zoo.registry import layers, model


def tokens(width: int = 6, length: int = 5) -> tuple[Tensor]:
    """A batch of sequences."""
    return (torch.randn(2, length, width),)


class Wrapped(nn.Module):
    """Embed, apply a body, read out from every token."""

    def __init__(self, ins: int, width: int, *body: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(ins, width), nn.Sequential(*body), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)))


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` on one sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


ATTENTION = {"heads": (4, 1), "query-key dims of a head": (5, 4), "value dims of a head": (5, 4)}


@model("multihead_attention", expected={"stream": (20, 1), **ATTENTION})
def multihead_attention():
    return Wrapped(6, 20, Residual(nn.LayerNorm(20), SelfAttention(20, 4))), tokens()


class CrossAttention(nn.Module):
    """Other widths for keys and values, learned bias keys, a zero key, and the weights as a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 20), nn.Linear(20, 3)
        self.attention = nn.MultiheadAttention(
            20, 4, kdim=7, vdim=9, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out, weights = self.attention(self.embed(x), keys, values, key_padding_mask=mask)
        return self.head(out), weights


# out_proj writes to neurons of its own; the returned weights are a mean over heads, so heads stay interchangeable
@model("cross_attention", expected={"queries from": (20, 1), "attended": (20, 1), **ATTENTION})
def cross_attention():
    mask = torch.tensor([[False, False, True], [False, False, False]])
    return CrossAttention(), (*tokens(), torch.randn(2, 3, 7), torch.randn(2, 3, 9), mask)


LAYER = {"heads": (3, 1), "query-key dims": (4, 3), "value dims": (4, 3), "feed-forward": (10, 1)}


@model("transformer_encoder", expected={"stream": (12, 1), **layers(2, LAYER)})
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(12, 3, 10, activation="gelu", batch_first=True, norm_first=True)
    return Wrapped(6, 12, nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False)), tokens()


class NoGrad(nn.Module):
    """Inference only: in evaluation mode `nn.TransformerEncoder` then takes its fused path."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@model("transformer_encoder_fused", expected={"stream": (12, 1), **layers(2, LAYER)})
def transformer_encoder_fused():
    layer = nn.TransformerEncoderLayer(12, 3, 10, batch_first=True)
    return Wrapped(6, 12, NoGrad(nn.TransformerEncoder(layer, 2))), tokens()


class EncoderDecoder(nn.Module):
    """`nn.Transformer` with a causal mask over the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target, self.head = nn.Embedding(17, 12), nn.Embedding(13, 12), nn.Linear(12, 13)
        self.body = nn.Transformer(12, 3, 1, 2, 10, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=torch.float64)
        return self.head(self.body(self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True))


CROSS = {"cross heads": (3, 1), "cross query-key dims": (4, 3), "cross value dims": (4, 3)}


# Both streams could be permuted alone, but cross-attention packs its projections into one matrix whose columns read
# the decoder's stream in some rows and the encoder's in others; one column has one id, which ties the streams.
@model(
    "transformer_decoder",
    expected={"both streams": (12, 1), **layers(1, LAYER)}
    | {f"decoder {name}": sizes for name, sizes in layers(2, LAYER | CROSS).items()},
)
def transformer_decoder():
    return EncoderDecoder(), (torch.randint(17, (2, 5)), torch.randint(13, (2, 4)))


class QKNormAttention(nn.Module):
    """Heads are normalised by scales that all of them share."""

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)
        self.q_norm, self.k_norm, self.heads = nn.LayerNorm(dim), nn.RMSNorm(dim), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(out.transpose(1, 2).flatten(2))


# The shared scales tie the query-key dims of all heads: one set of dims, not one per head.
@model("qk_norm", expected={"stream": (11, 1), "heads": (3, 1), "query-key dims": (5, 1), "value dims": (5, 3)})
def qk_norm():
    return Wrapped(6, 11, Residual(nn.LayerNorm(11), QKNormAttention(11, 3, 5))), tokens()


class LinearAttention(nn.Module):
    """``phi(q) (phi(k)^T v)`` by einsum, without a softmax."""

    def __init__(self, width: int, heads: int, qk: int, v: int) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(torch.empty(heads, width, qk)), nn.Parameter(torch.empty(heads, width, qk))
        self.v, self.out = nn.Parameter(torch.empty(heads, width, v)), nn.Parameter(torch.empty(heads, v, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k = (F.elu(torch.einsum("bnw,hwd->bhnd", x, w)) + 1 for w in (self.q, self.k))
        v = torch.einsum("bnw,hwd->bhnd", x, self.v)
        out = torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v))
        out = out / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))[..., None]
        return torch.einsum("bhne,hew->bnw", out, self.out)


@model(
    "linear_attention",
    expected={"stream": (11, 1), "heads": (3, 1), "query-key dims": (5, 3), "value dims": (4, 3)},
)
def linear_attention():
    return Wrapped(6, 11, Residual(nn.RMSNorm(11), LinearAttention(11, 3, 5, 4))), tokens()


def rotate(x: Tensor) -> Tensor:
    """Rotary positions."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 0.3 ** torch.arange(half, dtype=x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class GroupedQueryAttention(nn.Module):
    """Three query heads share a key and a value head; rotary positions."""

    def __init__(self, width: int, groups: int, repeat: int, dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, groups * repeat * dim, bias=False)
        self.k, self.v = nn.Linear(width, groups * dim), nn.Linear(width, groups * dim)
        self.out, self.groups, self.repeat, self.dim = nn.Linear(groups * repeat * dim, width), groups, repeat, dim

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (y.repeat_interleave(self.repeat, 1) for y in (rotate(k), v))
        out = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        return self.out(out.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """The gated feed-forward layer of Llama."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


# Rotary positions give each query-key dim an identity; value dims are free, but move for all heads of a group at once.
@model(
    "grouped_query_rope",
    expected={
        "stream": (11, 1),
        "kv-groups": (2, 1),
        "query heads of a group": (3, 2),
        "value dims": (4, 2),
        "feed-forward": (7, 1),
    },
)
def grouped_query_rope():
    block = [Residual(nn.RMSNorm(11), GroupedQueryAttention(11, 2, 3, 4)), Residual(nn.RMSNorm(11), SwiGLU(11, 7))]
    return Wrapped(6, 11, *block), tokens()


class Perceiver(nn.Module):
    """Learned latents attend to the inputs, then to each other; their mean is read."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(7, 12))
        self.cross = nn.MultiheadAttention(12, 3, kdim=6, vdim=6, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(12, 3, 10, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.expand(len(x), -1, -1)
        latents = latents + self.cross(latents, x, x)[0]
        return self.head(self.layer(latents).mean(1))


@model("perceiver", expected={"latents": (7, 1), "stream": (12, 1), **LAYER, **CROSS})
def perceiver():
    return Perceiver(), tokens()


class RelativeBias(nn.Module):
    """A learned table ``[head, distance]`` is added to the scores."""

    def __init__(self, width: int, heads: int, dim: int, length: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)
        self.table, self.heads = nn.Parameter(torch.empty(heads, 2 * length - 1)), heads
        self.register_buffer("distance", torch.arange(length)[:, None] - torch.arange(length) + length - 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        weights = torch.softmax(q @ k.mT + self.table[:, self.distance], -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


@model("relative_bias", expected={"stream": (11, 1), "heads": (3, 1), "query-key dims": (5, 3), "value dims": (5, 3)})
def relative_bias():
    return Wrapped(6, 11, Residual(nn.LayerNorm(11), RelativeBias(11, 3, 5, 5))), tokens()


class PositionTable(nn.Module):
    """A learned table ``[1, position, width]`` beside a class token: the width stays free."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.table, self.token = nn.Parameter(torch.empty(1, length + 1, width)), nn.Parameter(torch.empty(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.table


@model("position_table", expected={"stream": (20, 1), **ATTENTION})
def position_table():
    return Wrapped(6, 20, PositionTable(20, 5), Residual(SelfAttention(20, 4))), tokens()
