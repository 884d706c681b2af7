"""NG-T as published; `ngopt.encoder.published` says of whom, and what it is for.

Kept on purpose: it attends over all pairs of nodes, whether there is an edge between them or not, and scales by the
whole attention width instead of a head's.
"""

from __future__ import annotations

from collections.abc import Mapping

from einops import rearrange, reduce
from torch import Tensor, nn

from ngopt.encoder.published import Published
from ngopt.graph.neural_graph import NeuralGraph


class PublishedNGT(Published):
    """NG-T as published; see the module docstring. Arguments as for `Published`, with the published defaults."""

    def __init__(
        self, graph: NeuralGraph, task: str = "classify", outputs: int = 10, width: int = 64, edge_width: int = 32,
        attention: int = 128, heads: int | None = None, layers: int = 4, dropout: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(graph, task, outputs, width, edge_width, 1.0 if task == "classify" else 3.0)
        heads = heads if heads is not None else 8 if task == "classify" else 4
        dropout = dropout if dropout is not None else 0.2 if task == "classify" else 0.3
        self.layers = nn.ModuleList(
            _PublishedAttention(width, edge_width, attention, heads, dropout) for _ in range(layers)
        )
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, graph: NeuralGraph, params: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """See `ngopt.encoder.metanetwork.Metanetwork.forward`."""
        h = self._nodes(graph, params)
        pairs = h.new_zeros(len(h), self.plan.nodes, self.plan.nodes, self.plan.taps)
        places = [(rows.to(h.device)[:, None], cols.to(h.device)) for _, rows, cols in self.plan.weights]
        for kernel, (rows, cols) in zip(self._kernels(graph, params), places, strict=True):
            pairs[:, rows, cols] = kernel
        e = self.edge_in(pairs)
        for layer in self.layers:
            h, e = layer(h, e)
        if self.task == "classify":
            return self.readout(h[:, self.plan.outputs.to(h.device)].flatten(1))
        edge_out = [self.edge_head(e[:, rows, cols]) for rows, cols in places]
        return self._change(params, self.node_head(h), edge_out, first=0)


class _PublishedAttention(nn.Module):
    """Relational attention over all pairs, post-norm, and its edge update."""

    def __init__(self, width: int, edge_width: int, attention: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.nodes = nn.Linear(width, 3 * attention)
        self.edges = nn.Linear(edge_width, 4 * attention)
        self.out = nn.Linear(attention, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.ends = nn.Linear(2 * width + 2 * edge_width, 2 * edge_width)
        self.ends_out = nn.Linear(2 * edge_width, edge_width)
        self.edge_mlp = nn.Sequential(
            nn.Linear(edge_width, 2 * edge_width), nn.GELU(), nn.Linear(2 * edge_width, edge_width)
        )
        self.edge_norms = nn.ModuleList([nn.LayerNorm(edge_width), nn.LayerNorm(edge_width)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:  # [net, i, width], [net, i, j, edge_width]
        query, key, value = self.nodes(h).chunk(3, dim=-1)
        edge_query, edge_key, edge_scale, edge_shift = self.edges(e).chunk(4, dim=-1)
        product = (query[:, :, None] + edge_query) * (key[:, None] + edge_key)
        logits = reduce(product, "net i j (head entry) -> net i j head", "sum", head=self.heads) * self.attention**-0.5
        mixed = rearrange(
            value[:, None] * edge_scale + edge_shift, "net i j (head e) -> net i j head e", head=self.heads
        )
        heard = reduce(mixed * logits.softmax(2)[..., None], "net i j head entry -> net i (head entry)", "sum")
        h = self.norms[0](h + self.dropout(self.out(heard)))
        h = self.norms[1](h + self.dropout(self.mlp(h)))
        width, edge_width = h.shape[-1], e.shape[-1]
        at_i, at_j, own, back = self.ends.weight.split((width, width, edge_width, edge_width), dim=1)
        linear = nn.functional.linear
        ends = linear(h, at_i, self.ends.bias)[:, :, None] + linear(h, at_j)[:, None]
        ends = ends + linear(e, own) + linear(e.transpose(1, 2), back)
        e = self.edge_norms[0](e + self.dropout(self.ends_out(nn.functional.gelu(ends))))
        return h, self.edge_norms[1](e + self.dropout(self.edge_mlp(e)))
