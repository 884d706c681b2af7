"""Relations: dense blocks and lists of edges are the same thing, and lists reduce as PyG's own aggregations do.

`torch_geometric.testing.assert_module` calls ``module(x, edge_index, size=...)`` and compares that with sparse
adjacency matrices. No module of ours takes one node tensor and an edge index: a network is many relations, each with
its own two sides. So what PyG can vouch for, the reductions, is compared with `torch_geometric.nn.aggr`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ngopt.encoder.relations import STD_FLOOR, BlockEdges, ListEdges, Relation
from tests.encoder.cases import differ

WIDTH, NODES = 3, 6
sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))  # group, row, col


def as_list(rows: Tensor, cols: Tensor) -> ListEdges:
    """The edges of `BlockEdges(rows, cols)`, one by one."""
    (group, row), col = rows.shape, cols.shape[1]
    at = torch.arange(group * row * col)
    return ListEdges(at // col, at // (row * col) * col + at % col, rows.flatten(), cols.flatten())


def operations(relation: Relation, nodes: Tensor, edges: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Every operation, on edges ``[*edge, d]`` in the relation's own form."""
    logits = edges[..., 0] if isinstance(relation, BlockEdges) else edges[:, 0]
    mean, low, high, std = relation.statistics(edges)
    return {
        "heads": relation.heads(nodes) + 0 * edges,  # broadcast to all edges
        "tails": relation.tails(nodes) + 0 * edges,
        "at_rows": relation.at_rows(rows) + 0 * edges,
        "total": relation.total(edges),
        "weighted": relation.weighted(logits, nodes),
        "mean": mean,
        "low": low,
        "high": high,
        "std": std,
        "square": relation.moments(edges)[3],
        "softmax": relation.softmax(edges),
        "to_nodes": relation.to_nodes(rows),
        "sizes": relation.row_sizes.double(),
        "nodes": relation.nodes,
    }


@given(sizes, st.integers(0, 10_000), st.booleans())
def test_blocks_equal_lists(size: tuple[int, int, int], seed: int, flip: bool) -> None:
    """Nodes may stand at several rows, and at rows and columns alike."""
    group, row, col = size
    generator = torch.Generator().manual_seed(seed)
    row_nodes = torch.randint(NODES, (group, row), generator=generator)
    col_nodes = torch.randint(NODES, (group, col), generator=generator)
    nodes = torch.randn(NODES, WIDTH, generator=generator).double()
    edges = torch.randn(group, row, col, WIDTH, generator=generator).double()
    rows = torch.randn(group * (col if flip else row), WIDTH, generator=generator).double()
    block, flat = BlockEdges(row_nodes, col_nodes), as_list(row_nodes, col_nodes)
    if flip:
        block, flat = block.reversed, flat.reversed
    dense = operations(block, nodes, edges, rows)
    listed = operations(flat, nodes, edges.flatten(0, 2), rows)
    for name, wanted in dense.items():
        found = listed[name].reshape(wanted.shape)
        assert torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-12), name


@given(sizes, st.integers(0, 10_000))
def test_reversed_twice_is_the_same(size: tuple[int, int, int], seed: int) -> None:
    group, row, col = size
    generator = torch.Generator().manual_seed(seed)
    nodes = [torch.randint(NODES, (group, n), generator=generator) for n in (row, col)]
    for relation in (BlockEdges(*nodes), as_list(*nodes)):
        assert relation.reversed.reversed is relation
        assert torch.equal(relation.row_nodes, nodes[0].flatten())
        assert torch.equal(relation.reversed.row_nodes, nodes[1].flatten())


@given(sizes, st.integers(0, 10_000))
def test_stacks_are_reduced_network_by_network(size: tuple[int, int, int], seed: int) -> None:
    group, row, col = size
    generator = torch.Generator().manual_seed(seed)
    relation = BlockEdges(*(torch.randint(NODES, (group, n), generator=generator) for n in (row, col)))
    nodes = torch.randn(2, NODES, WIDTH, generator=generator).double()
    edges = torch.randn(2, group, row, col, WIDTH, generator=generator).double()
    rows = torch.randn(2, group * row, WIDTH, generator=generator).double()
    both = operations(relation, nodes, edges, rows)
    for k in range(2):
        for name, wanted in operations(relation, nodes[k], edges[k], rows[k]).items():
            found = both[name] if name in ("sizes", "nodes") else both[name][k]
            assert torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-12), name


def test_a_wrong_list_is_noticed() -> None:
    """The control: groups that are mixed up, or rows and columns."""
    rows, cols = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 4], [5, 1]])
    nodes, edges = torch.randn(NODES, WIDTH).double(), torch.randn(2, 2, 2, WIDTH).double()
    block = BlockEdges(rows, cols)
    for wrong in (as_list(rows, cols.flip(0)), as_list(cols, rows)):
        assert differ((block.tails(nodes) + 0 * edges).flatten(0, 2), wrong.tails(nodes)) > 1e-3
    assert differ(block.total(edges), block.reversed.total(edges)) > 1e-3


def random_list(seed: int, edges: int) -> tuple[ListEdges, Tensor, Tensor]:
    """A list in which rows have any number of edges, but at least one."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.arange(4), torch.randint(4, (edges,), generator=generator)])
    rows = rows[torch.randperm(len(rows), generator=generator)]
    cols = torch.randint(5, (len(rows),), generator=generator)
    relation = ListEdges(rows, cols, torch.tensor([0, 0, 1, 2]), torch.arange(5))
    return relation, rows, torch.randn(len(rows), WIDTH, generator=generator).double()


AGGREGATIONS: dict[str, Callable[[ListEdges, Tensor], Tensor]] = {
    "SumAggregation": lambda relation, x: relation.total(x),
    "MeanAggregation": lambda relation, x: relation.statistics(x)[0],
    "MinAggregation": lambda relation, x: relation.statistics(x)[1],
    "MaxAggregation": lambda relation, x: relation.statistics(x)[2],
    "StdAggregation": lambda relation, x: relation.statistics(x)[3],
    "SoftmaxAggregation": lambda relation, x: relation.total(relation.softmax(x) * x),
}


@pytest.mark.parametrize("name", list(AGGREGATIONS))
@given(st.integers(0, 10_000), st.integers(0, 12))
def test_lists_reduce_as_pyg_does(name: str, seed: int, edges: int) -> None:
    from torch_geometric.nn import aggr

    relation, rows, x = random_list(seed, edges)
    wanted = getattr(aggr, name)()(x, rows, dim_size=4)
    found = AGGREGATIONS[name](relation, x)
    if name == "StdAggregation":  # theirs is zero below a floor; ours has it under the root everywhere
        alone = torch.bincount(rows, minlength=4) == 1
        assert torch.allclose(found[alone], torch.full_like(found[alone], STD_FLOOR**0.5))
        several = wanted.square() > 1e-3
        assume(bool(several.any()))
        found, wanted = (found.square() - STD_FLOOR)[several], wanted.square()[several]
        assert torch.allclose(found, wanted, rtol=0, atol=2 * STD_FLOOR)
        return
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


def test_wrong_rows_are_noticed() -> None:
    """The control: PyG's sums over other rows."""
    from torch_geometric.nn import aggr

    relation, rows, x = random_list(0, 8)
    assert differ(relation.total(x), aggr.SumAggregation()(x, rows.flip(0), dim_size=4)) > 1e-3


def test_nothing_to_vary_has_a_finite_gradient() -> None:
    """One edge per row: a standard deviation of zero."""
    for relation, shape in (
        (BlockEdges(torch.tensor([[0, 1]]), torch.tensor([[2]])), (1, 2, 1, WIDTH)),
        (ListEdges(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([2])), (2, WIDTH)),
    ):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        relation.statistics(x)[3].sum().backward()
        assert x.grad is not None and x.grad.isfinite().all()
