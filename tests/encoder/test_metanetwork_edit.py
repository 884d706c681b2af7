"""The edit readout: new parameters with the old names and shapes; nothing changes at scale zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.encoder.cases import ENCODERS, differ, drawn, network_of, reader, scale_changes, stacked, zoo

NAMES = ("siren", "conv_norms", "multihead_attention", "soft_moe", "unused_parameters", "tied_autoencoder")


def emitted(name: str) -> set[str]:
    """Every parameter that is used, under its first name; buffers are read, and not written."""
    return {block.name for block in zoo(name)[0].blocks if block.role != "unused"}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", NAMES)
def test_scale_zero_changes_no_bit(name: str, encoder: str) -> None:
    graph, state = zoo(name)
    model = reader(graph, encoder, "edit")
    stack = stacked(state, drawn(state, 1))
    changed = model(graph, stack)
    assert all(not torch.equal(x[:, 0], stack[key]) for key, x in changed.items())  # control: at scale one all do
    scale_changes(model, 0.0)
    new = model(graph, stack)
    assert set(new) == emitted(name)
    for key, x in new.items():
        assert torch.equal(x[:, 0], stack[key])
    if encoder in ENCODERS:
        for k, one in enumerate(model.mixed([(graph, state), zoo("resnet"), (graph, drawn(state, 1))])[::2]):
            assert set(one) == emitted(name)
            assert all(torch.equal(x[0], stack[key][k]) for key, x in one.items())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_copies(name: str, copies: int, encoder: str) -> None:
    graph, state = zoo(name)
    model = reader(graph, encoder, "edit", copies=copies)
    new = model(graph, stacked(state, state))
    assert {key: x.shape for key, x in new.items()} == {key: (2, copies, *state[key].shape) for key in emitted(name)}
    if copies > 1:
        assert all(differ(x[:, 0], x[:, 1]) > 1e-6 for x in new.values())
    if encoder in ENCODERS:
        one = model.mixed([(graph, state)])[0]
        assert {key: x.shape for key, x in one.items()} == {key: x.shape[1:] for key, x in new.items()}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_new_parameters_run(encoder: str) -> None:
    module, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3, dtype=torch.float64)
    graph, state = network_of(module, x)
    new = reader(graph, encoder, "edit")(graph, stacked(state, state))
    outputs = torch.func.vmap(lambda one: torch.func.functional_call(module, one, x))(
        {n: y[:, 0] for n, y in new.items()}
    )
    assert outputs.shape == (2, 4, 2) and outputs.isfinite().all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_entry_gets_a_change_of_its_own(encoder: str) -> None:
    """Kernels, too: what differs only by its tap."""
    graph, state = zoo("cnn_flatten")
    changes = {key: x[0, 0] - state[key] for key, x in reader(graph, encoder, "edit")(graph, stacked(state)).items()}
    for key, change in changes.items():
        assert len(change.unique()) == change.numel(), key


@pytest.mark.parametrize("task", ["classify", "edit"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_graph_without_edges(encoder: str, task: str) -> None:
    graph, state = network_of(nn.LayerNorm(4), torch.randn(2, 4, dtype=torch.float64))
    model = reader(zoo("mlp")[0], encoder, task)
    result = model(graph, stacked(state, state))
    if task == "edit":
        assert {key: x.shape for key, x in result.items()} == {"weight": (2, 1, 4), "bias": (2, 1, 4)}
    else:
        assert result.shape == (2, 10) and result.isfinite().all()
    if encoder in ENCODERS:
        alone = model.mixed([(graph, state)])[0]
        pairs = [(result[k][0], alone[k]) for k in alone] if task == "edit" else [(result[0], alone)]
        assert all(differ(x, y) < 1e-9 for x, y in pairs)
