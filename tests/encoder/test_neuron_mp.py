"""NeuronMP and its features: exact equivariance, independence, invariance, sensitivity."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ngopt
from ngopt.encoder.features import NODE_FEATURES, node_features
from ngopt.encoder.neuron_mp import NeuronMP, ShuffledMP
from ngopt.encoder.structure import structure
from ngopt.graph.neural_graph import NeuralGraph, NodeGroup, ParamBlock


def dense(name: str, row: Tensor, col: Tensor | None, shape: tuple[int, ...], role: str) -> ParamBlock:
    """A block of a linear layer, a convolution, or a vector."""
    taps = 1
    for size in shape[2:]:
        taps *= size
    cols = len(col) if col is not None else 1
    return ParamBlock(
        name, shape, shape, tuple(range(len(shape))), (1, len(row), cols, taps), row[None], torch.zeros_like(row)[None],
        None if col is None else col[None], None if col is None else torch.zeros_like(col)[None], role,
    )  # fmt: skip


def chain(widths: list[int], taps: list[int]) -> NeuralGraph:
    """A hand-made graph of layers ``widths[0] -> widths[1] -> ...`` with kernels of the given sizes, and biases."""
    starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
    nodes = [torch.arange(a, b) for a, b in itertools.pairwise(starts)]
    groups = tuple(
        NodeGroup(f"layer {i}", starts[i], width, "neuron", i in (0, len(widths) - 1), ("relu",))
        for i, width in enumerate(widths)
    )
    blocks = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        shape = (fan_out, fan_in) if taps[i] == 1 else (fan_out, fan_in, taps[i])
        blocks.append(dense(f"{i}.weight", nodes[i + 1], nodes[i], shape, "weight"))
        blocks.append(dense(f"{i}.bias", nodes[i + 1], None, (fan_out,), "bias"))
    return NeuralGraph(groups, tuple(blocks))


def random_channels(graph: NeuralGraph, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Random weights, gradients and momenta as matrix views."""
    generator = torch.Generator().manual_seed(seed)
    return {
        b.name: tuple(torch.randn(b.matrix_shape, generator=generator).double() for _ in range(3)) for b in graph.blocks
    }


def embed(
    graph: NeuralGraph, channels: dict[str, tuple[Tensor, Tensor, Tensor]], kind: type[NeuronMP] = NeuronMP
) -> Tensor:
    """Embeddings by an encoder with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = kind(NODE_FEATURES, rounds=2).double()
    with torch.no_grad():
        edges = {name: (weight, momentum) for name, (weight, _, momentum) in channels.items()}
        return encoder(graph, node_features(graph, channels, torch.float64), edges)[0]


layers = st.lists(st.integers(1, 7), min_size=3, max_size=5)


@given(widths=layers, tap=st.sampled_from([1, 3]), seed=st.integers(0, 1000))
def test_permuting_neurons_permutes_embeddings(widths: list[int], tap: int, seed: int) -> None:
    graph = chain(widths, [tap] * len(widths))
    channels = random_channels(graph, seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([g.start + torch.randperm(g.size, generator=generator) for g in graph.groups])
    moved = {}
    for block in graph.blocks:
        row = order[block.row_nodes[0]] - block.row_nodes[0, 0]
        values = [x[:, row] for x in channels[block.name]]
        if block.col_nodes is not None:
            col = order[block.col_nodes[0]] - block.col_nodes[0, 0]
            values = [x[:, :, col] for x in values]
        moved[block.name] = tuple(values)
    assert (embed(graph, moved) - embed(graph, channels)[order]).abs().max() < 1e-12


class Mixed(nn.Module):
    """Attention, norms and a convolution: blocks, slots, groups of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.flat = nn.Linear(8 * 5, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, time] -> [batch, class]."""
        x = self.norm(self.conv(x).mT)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(torch.relu(self.flat(x.mT.flatten(1))))


def traced_channels(graph: NeuralGraph, tables: list[dict[str, Tensor]]) -> dict[str, tuple[Tensor, ...]]:
    return {b.name: tuple(b.to_matrix(table[b.name]) for table in tables) for b in graph.blocks}


def test_generators_of_a_traced_model_permute_embeddings() -> None:
    torch.manual_seed(0)
    model, x = Mixed().double(), torch.randn(2, 3, 5).double()
    graph = ngopt.trace(model, x)
    tables = [{name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(3)]
    before = embed(graph, traced_channels(graph, tables))
    moved = 0
    for generator in graph.generators():
        after = embed(graph, traced_channels(graph, [generator.apply(table) for table in tables]))
        # A generator swaps nodes; which ones is what its moves say. As sets, embeddings are the same.
        assert torch.allclose(before.sort(0).values, after.sort(0).values, atol=1e-10)
        moved += int(not torch.allclose(before, after, atol=1e-10))
    assert moved > 0


@given(widths=layers, seed=st.integers(0, 1000), exponent=st.integers(-20, 20))
def test_scale_of_each_tensor_does_not_matter(widths: list[int], seed: int, exponent: int) -> None:
    graph = chain(widths, [1] * len(widths))
    channels = random_channels(graph, seed)
    scaled = {name: tuple(x * 1.5 * 2.0**exponent for x in values) for name, values in channels.items()}
    assert (embed(graph, scaled) - embed(graph, channels)).abs().max() < 1e-5


@given(first=layers, second=layers, seed=st.integers(0, 1000))
def test_another_network_in_the_same_graph_changes_nothing(first: list[int], second: list[int], seed: int) -> None:
    graph, other = chain(first, [1] * len(first)), chain(second, [3] * len(second))
    shift = graph.num_nodes
    moved_groups = tuple(dataclasses.replace(g, name=f"other {g.name}", start=g.start + shift) for g in other.groups)
    moved_blocks = tuple(
        dataclasses.replace(
            b,
            name=f"other {b.name}",
            row_nodes=b.row_nodes + shift,
            col_nodes=None if b.col_nodes is None else b.col_nodes + shift,
        )
        for b in other.blocks
    )
    both = NeuralGraph(graph.groups + moved_groups, graph.blocks + moved_blocks)
    channels = random_channels(graph, seed)
    joined = channels | {f"other {name}": values for name, values in random_channels(other, seed + 1).items()}
    assert (embed(both, joined)[:shift] - embed(graph, channels)).abs().max() < 1e-12


def test_embeddings_see_every_channel_and_the_activation() -> None:
    graph = chain([4, 5, 3], [1, 3, 1])
    channels = random_channels(graph, 0)
    before = embed(graph, channels)
    for name, values in channels.items():
        for k in range(3):
            changed = [x.clone() for x in values]
            changed[k][0, 0] *= 3.0
            assert not torch.allclose(embed(graph, {**channels, name: tuple(changed)}), before), (name, k)
    groups = tuple(dataclasses.replace(g, activations=("tanh",)) for g in graph.groups)
    assert not torch.allclose(embed(NeuralGraph(groups, graph.blocks), channels), before)


def test_missing_blocks_and_zeros_are_fine() -> None:
    graph = chain([4, 5, 3], [1, 1, 1])
    channels = random_channels(graph, 0)
    assert embed(graph, {}).isfinite().all()
    zeros = {name: tuple(torch.zeros_like(x) for x in values) for name, values in channels.items()}
    assert embed(graph, zeros).isfinite().all()
    features = node_features(graph, {"0.weight": (channels["0.weight"][0], None, None)})
    assert features.shape == (12, NODE_FEATURES) and features.isfinite().all()


def test_members_hear_of_their_block_and_the_block_of_its_members() -> None:
    graph = chain([4, 5, 3], [1, 1, 1])
    block = NodeGroup("block", 12, 1, "block", False)
    linked = NeuralGraph((*graph.groups, block), graph.blocks, links=torch.tensor([[4, 5, 6], [12, 12, 12]]))
    alone = NeuralGraph((*graph.groups, block), graph.blocks)
    channels = random_channels(graph, 0)
    with_links, without = embed(linked, channels), embed(alone, channels)
    changed = (with_links - without).abs().amax(1) > 1e-9
    assert changed[4:7].all() and changed[12]


def test_structure_is_made_once_and_dies_with_its_graph() -> None:
    from ngopt.encoder import structure as module

    graph = chain([4, 5, 3], [1, 1, 1])
    assert structure(graph) is structure(graph)
    key = (id(graph), torch.device("cpu"))
    assert key in module._build.kept
    del graph
    assert key not in module._build.kept


def test_the_control_gives_the_same_embeddings_to_other_neurons() -> None:
    graph = chain([3, 7, 5, 2], [1, 1, 1])
    channels = random_channels(graph, 3)
    own, others = embed(graph, channels), embed(graph, channels, ShuffledMP)
    same = (own[:, None] == others[None]).all(-1)
    assert same.any(0).all() and same.any(1).all() and not same.diagonal().all()
    assert torch.equal(others, embed(graph, channels, ShuffledMP))  # drawn once for all
