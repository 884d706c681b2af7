"""What the optimizer shows of itself: the views that others choose by hand, curves, and a short `repr`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.optim.attach import capture
from ngopt.optim.summary import ParamSummary
from tests.optim.ngoptimizer_cases import batch, graph_of, lively_rule, make_mlp, train, weights

WIDTH, HEADS = 12, 3
ENTRY_BY_ENTRY: dict[str, tuple[int, int]] = {}


class Attention(nn.Module):
    """Self-attention with query, key and value packed into one matrix; fewer key heads than query heads, or as many."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.head = WIDTH // HEADS
        self.sizes = [WIDTH, kv_heads * self.head, kv_heads * self.head]
        self.embed, self.qkv = nn.Linear(5, WIDTH), nn.Linear(WIDTH, sum(self.sizes))
        self.out, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, 5] -> [batch, token, 2]."""
        x = self.embed(x)
        q, k, v = (y.unflatten(-1, (-1, self.head)).transpose(1, 2) for y in self.qkv(x).split(self.sizes, -1))
        k, v = (y.repeat_interleave(HEADS // y.shape[1], 1) for y in (k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last(x + self.out(mixed))


class Recurrent(nn.Module):
    """An LSTM of six neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.last = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, 5] -> [batch, 2]."""
        return self.last(self.rnn(x)[0][:, -1])


class Experts(nn.Module):
    """Three experts in stacked 3-D tensors, stored in-first as most mixtures store them."""

    def __init__(self) -> None:
        super().__init__()
        self.stream, self.gate = nn.Linear(5, 4), nn.Linear(4, 3)
        self.up, self.up_bias = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8))
        self.down, self.last = nn.Parameter(torch.randn(3, 8, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 2]."""
        x = self.stream(x)
        hidden = torch.relu(torch.einsum("bi,eih->ebh", x, self.up) + self.up_bias[:, None])
        return self.last(x + torch.einsum("ebo,be->bo", torch.bmm(hidden, self.down), self.gate(x).softmax(-1)))


class Tied(nn.Module):
    """A token embedding that is also the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.middle, self.readout = nn.Embedding(11, 7), nn.Linear(7, 7), nn.Linear(7, 11, bias=False)
        self.readout.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token] -> [batch, token, 11]."""
        return self.readout(torch.tanh(self.middle(self.tokens(x))))


class LowRank(nn.Module):
    """A LoRA pair beside a frozen matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.base = nn.Linear(5, 8), nn.Linear(8, 9).requires_grad_(False)
        self.a, self.b, self.last = nn.Linear(8, 2, bias=False), nn.Linear(2, 9, bias=False), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 5] -> [batch, 2]."""
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.base(x) + self.b(self.a(x))))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 6, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


TOKENS, IMAGE, ROW = torch.randn(2, 4, 5), torch.randn(2, 3, 6, 6), torch.randn(2, 5)
# model, inputs, {parameter: (role, view as group, row, col, tap; sides with an eigenbasis)}
VIEWS = {
    "packed qkv": (
        lambda: Attention(HEADS),
        TOKENS,
        {"qkv.weight": ("query+value", (1, 36, 12, 1), "row col"), "qkv.bias": ("bias", (1, 36, 1, 1), "")},
    ),
    "packed qkv, grouped heads": (
        lambda: Attention(1),
        TOKENS,
        {"qkv.weight": ("query+key+value", (1, 20, 12, 1), "row col")},
    ),
    "LSTM gates": (
        Recurrent,
        TOKENS,
        {
            "rnn.weight_ih_l0": ("weight", (1, 24, 5, 1), "row col"),
            "rnn.weight_hh_l0": ("weight", (1, 24, 6, 1), "row col"),
            "rnn.bias_hh_l0": ("bias", (1, 24, 1, 1), ""),
        },
    ),
    "stacked experts": (
        Experts,
        ROW,
        {
            "up": ("weight", (3, 8, 4, 1), "row col"),
            "down": ("weight", (3, 4, 8, 1), "row col"),
            "up_bias": ("bias", (3, 8, 1, 1), ""),
            "gate.weight": ("weight", (1, 3, 4, 1), "row col"),
        },
    ),
    "tied embedding": (
        Tied,
        torch.tensor([[1, 2], [3, 4]]),
        {
            "tokens.weight": ("embedding", (1, 7, 11, 1), "row col"),
            "middle.weight": ("weight", (1, 7, 7, 1), "row col"),
        },
    ),
    "LoRA pair": (
        LowRank,
        ROW,
        {"a.weight": ("weight", (1, 2, 8, 1), "row col"), "b.weight": ("weight", (1, 9, 2, 1), "row col")},
    ),
    "convolutions": (
        convolutions,
        IMAGE,
        {
            "0.weight": ("weight", (1, 8, 27, 1), "row col"),
            "2.weight": ("weight", (1, 8, 9, 1), "row col"),  # depthwise: a channel reads itself only
            "4.weight": ("weight", (2, 6, 36, 1), "row col"),  # grouped: a matrix for each group
            "6.weight": ("weight", (1, 6, 48, 1), "row col"),  # transposed: stored in-first
            "10.weight": ("weight", (1, 2, 6, 1), "row col"),
        },
    ),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_are_what_others_choose_by_hand(case: str) -> None:
    build, inputs, expected = VIEWS[case]
    model = build()
    optimizer = ngopt.NGOptimizer(model, example_inputs=inputs)
    rows = {row.name: row for row in optimizer._summaries()}
    for name, (role, view, sides) in expected.items():
        row = rows[name]
        assert (row.role, row.view, " ".join(row.bases)) == (role, view, sides), name
        assert math.prod(row.view) == row.view[0] * math.prod(row.view[1:]) == math.prod(row.shape)
        assert row.on_graph
    assert "*" not in optimizer.summary().replace("2*", "")


def test_rows_of_a_view_are_the_neurons_that_are_written_to() -> None:
    """Query, key and value of a head are rows of their own neurons; gates of an LSTM are slots of the same neuron."""
    optimizer = ngopt.NGOptimizer(Recurrent(), example_inputs=TOKENS)
    block = next(b for b in optimizer.graph.blocks if b.name == "rnn.weight_ih_l0")
    assert [len(block.row_nodes[0, i::6].unique()) for i in range(6)] == [1] * 6  # four gates, one neuron
    assert block.row_slots[0, ::6].unique().numel() == 4
    up, down = (
        next(b for b in ngopt.NGOptimizer(Experts(), example_inputs=ROW).graph.blocks if b.name == name)
        for name in ("up", "down")
    )
    assert torch.equal(up.row_nodes, down.col_nodes)
    assert up.row_nodes.unique().numel() == 24


@pytest.fixture
def remembered_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the multilayer perceptron is traced once."""
    monkeypatch.setattr(capture, "trace_quietly", graph_of)


class Curves:
    """What a ``SummaryWriter`` was told."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Keep it."""
        self.points.setdefault(tag, []).append((step, value))


def test_curves_tell_what_happened(remembered_graphs: None) -> None:
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, rule=lively_rule())
    curves = Curves()
    train(model, optimizer, [0])
    optimizer.log(curves, 1)
    before = weights(model)
    train(model, optimizer, [1])
    optimizer.log(curves, 2)
    for name, value in weights(model).items():
        ((step, ratio),) = curves.points[f"update_to_weight/{name}"]  # the first call had none to show
        assert step == 2
        assert ratio == pytest.approx(((value - before[name]).norm() / before[name].norm()).item(), rel=1e-3)
        assert [at for at, _ in curves.points[f"gain/{name}"]] == [1, 2]
    gains = [points[-1][1] for tag, points in curves.points.items() if tag.startswith("gain/")]
    assert len(set(gains)) > 1 and all(gain > 0 for gain in gains)
    model[0].weight.grad[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="skipped"):
        optimizer.step()
    optimizer.log(curves, 3)
    assert curves.points["optimizer/skipped_steps"] == [(1, 0), (2, 0), (3, 1)]
    assert curves.points["optimizer/parameters_off_graph"][-1] == (3, 0)


def test_a_real_summary_writer(remembered_graphs: None, tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model)
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for index in range(2):
            train(model, optimizer, [index])
            optimizer.log(writer, index)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for tag in ("gain/0.weight", "update_to_weight/2.bias", "optimizer/skipped_steps"):
        assert tag.encode() in content


def test_measuring_changes_no_step(remembered_graphs: None) -> None:
    model, twin = make_mlp(), make_mlp()
    optimizer, other = ngopt.NGOptimizer(model), ngopt.NGOptimizer(twin)
    other.log(Curves(), 0)
    train(model, optimizer, range(3))
    train(twin, other, range(3))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert optimizer._measured is None


def test_the_scale_is_the_size_of_a_step(remembered_graphs: None) -> None:
    """Where the direction has a root mean square of about one, as at first, so much is what the table says."""
    model = make_mlp()
    optimizer = ngopt.NGOptimizer(model, schedule="user", pretrained="ngopt-base-untrained")
    before = weights(model)
    train(model, optimizer, [0])
    after = weights(model)
    for row in optimizer._summaries():
        size = (after[row.name] - before[row.name]).square().mean().sqrt().item()
        assert 0.2 * row.scale < size < 3.0 * row.scale, row.name


def test_the_table_marks_what_is_off_the_graph(remembered_graphs: None) -> None:
    model = make_mlp()
    extra = nn.Parameter(torch.ones(3, 4))
    with pytest.warns(UserWarning, match="extra: not on the neural graph"):
        optimizer = ngopt.NGOptimizer(
            [*model.named_parameters(), ("extra", extra)], model=model, example_inputs=batch(0)[0], total_steps=70
        )
    text = optimizer.summary()
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "0 steps made of 70, none skipped" in text
    assert lines["extra"].split()[1] == "*" and "* on no neural graph (1)" in text
    assert lines["0.weight"].split()[1:4] == ["8x5", "weight", "1x8x5x1"]
    assert "row 8 col 5" in lines["0.weight"] and "entry by entry" in lines["0.bias"]
    assert "no neural graph yet" in ngopt.NGOptimizer(make_mlp()).summary()
    assert isinstance(optimizer._summaries()[0], ParamSummary)


def test_the_printed_form_is_short() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(50)))
    groups = [{"params": list(model[:25].parameters())}, {"params": list(model[25:].parameters()), "lr": 0.5}]
    text = repr(ngopt.NGOptimizer(groups, graph=False, total_steps=90))
    assert len(text.splitlines()) == 4
    assert "total_steps=90" in text and "50 parameters, 500 entries: lr=0.5" in text
    assert "24.weight" not in text
