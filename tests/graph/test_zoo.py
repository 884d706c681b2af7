"""Every model of the zoo: all parameters on the graph, every symmetry right, and the expected ones found."""

from __future__ import annotations

import pytest
import torch

from tests.graph.checks import WRONG, Traced, share_that_moves, traced_model, wrong_generators
from tests.zoo import MODELS


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    """Every model. As a fixture of the module, it makes pytest run all tests of one model in a row: one trace each."""
    return request.param


def test_zoo_is_large():
    assert len(MODELS) >= 60


def test_every_parameter_is_on_the_graph_once(name: str):
    run = traced_model(name)
    blocks = {block.name: block for block in run.graph.blocks}
    parameters = dict(run.module.named_parameters())
    tied = dict(run.module.named_parameters(remove_duplicate=False))
    assert len(blocks) == len(run.graph.blocks)
    assert sorted(n for block in run.graph.blocks for n in (block.name, *block.aliases)) == sorted(tied)
    assert {n: block.numel for n, block in blocks.items()} == {n: p.numel() for n, p in parameters.items()}
    for block in run.graph.blocks:
        assert all(tied[alias] is tied[block.name] for alias in block.aliases)


def test_parameters_round_trip(name: str):
    run = traced_model(name)
    for block in (*run.graph.blocks, *run.graph.buffers):
        tensor = run.state[block.name]
        matrix = block.to_matrix(tensor)
        groups, rows, columns, _ = block.matrix_shape
        assert tuple(tensor.shape) == block.shape
        assert tuple(matrix.shape) == block.matrix_shape
        assert torch.equal(block.from_matrix(matrix), tensor)
        assert block.from_matrix(matrix).shape == tensor.shape
        assert block.row_nodes.shape == block.row_slots.shape == (groups, rows)
        _check_nodes(run, block.row_nodes)
        assert (block.col_nodes is None) == (block.col_slots is None) == (not block.is_edge)
        if block.col_nodes is not None and block.col_slots is not None:
            assert block.col_nodes.shape == block.col_slots.shape == (groups, columns)
            _check_nodes(run, block.col_nodes)
        else:
            assert columns == 1


def _check_nodes(run: Traced, nodes: torch.Tensor) -> None:
    assert nodes.dtype == torch.int64
    assert nodes.numel() == 0 or 0 <= int(nodes.min()) <= int(nodes.max()) < run.graph.num_nodes


def test_entries_have_places_of_their_own(name: str):
    """No two entries of a parameter sit at the same neurons, slots and tap: the graph determines the parameter."""
    for block in traced_model(name).graph.blocks:
        groups, rows, columns, taps = block.matrix_shape
        place = [block.row_nodes[:, :, None], block.row_slots[:, :, None]]
        if block.col_nodes is not None and block.col_slots is not None:
            place += [block.col_nodes[:, None], block.col_slots[:, None]]
        entries = torch.stack([p.expand(groups, rows, columns) for p in place], -1).reshape(-1, len(place))
        assert len(torch.unique(entries, dim=0)) * taps == block.numel, block.name


def test_tracing_leaves_the_module_alone(name: str):
    assert traced_model(name).unharmed


def test_node_groups_tile_the_nodes(name: str):
    graph = traced_model(name).graph
    stop = 0
    for group in graph.groups:
        assert group.start == stop
        assert group.size > 0
        stop = group.stop
    assert stop == graph.num_nodes
    assert graph.links.shape[0] == 2
    assert graph.links.numel() == 0 or 0 <= int(graph.links.min()) <= int(graph.links.max()) < stop


def test_generators_leave_the_function_unchanged(name: str):
    run = traced_model(name)
    before = {key: tensor.clone() for key, tensor in run.state.items()}
    assert wrong_generators(run, limit=150) == []
    assert all(torch.equal(before[key], run.state[key]) for key in before)  # the original is left alone


@pytest.mark.slow
def test_every_generator_and_products_of_them(name: str):
    run = traced_model(name)
    assert wrong_generators(run) == []
    if run.graph.symmetries is not None:
        for seed in range(5):
            assert run.error(run.graph.symmetries.random(seed).apply(run.state)) < 1e-9


def test_expected_symmetries(name: str):
    found = traced_model(name).sizes
    expected = MODELS[name].sizes
    assert not (missing := expected - found), f"missing {dict(missing)}, too many {dict(found - expected)}"
    assert not (extra := found - expected), f"too many {dict(extra)}"


def test_half_a_permutation_is_noticed(name: str):
    """The control: if only one of the parameters that a generator moves is permuted, the outputs must change."""
    run = traced_model(name)
    together = [g for g in run.graph.generators() if len(g.parameters) > 1]
    if not together:
        assert not MODELS[name].sizes
        return
    generator = together[0]
    permuted = generator.apply(run.state)
    errors = {n: run.error(run.state | {k: permuted[k] for k in _names(run, n)}) for n in generator.parameters}
    assert max(errors.values()) > WRONG, errors


def _names(run: Traced, name: str) -> tuple[str, ...]:
    blocks = (*run.graph.blocks, *run.graph.buffers)
    return next((b.name, *b.aliases) for b in blocks if b.name == name)


def test_share_of_parameters_with_a_symmetry(name: str):
    share = share_that_moves(traced_model(name))
    print(f"{name}: {share:.0%} of the parameters are moved by some generator")
    assert (0.25 < share <= 1) if MODELS[name].sizes else share == 0
