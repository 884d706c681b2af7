"""What is given wrongly is named, with what was expected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ngopt.encoder import metanetwork
from ngopt.errors import GraphMismatchError
from tests.encoder.cases import ENCODERS, SWEEPS, Network, State, network_of, reader, stacked, zoo

CALLS: dict[str, Callable] = {
    "forward": lambda model, graph, state: model(graph, {name: x[None] for name, x in state.items()}),
    "mixed": lambda model, graph, state: model.mixed([(graph, state)]),
    "fit": lambda model, graph, state: model.fit_statistics(graph, {name: x[None] for name, x in state.items()}),
}


def dense() -> Network:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return network_of(module, torch.randn(2, 3, dtype=torch.float64))


def without(state: State, name: str) -> State:
    return {key: x for key, x in state.items() if key != name}


@pytest.mark.parametrize("call", list(CALLS))
def test_missing_parameter(call: str) -> None:
    graph, state = dense()
    with pytest.raises(GraphMismatchError, match=r"'2.weight' of shape \(2, 4\), the networks have nothing"):
        CALLS[call](reader(graph), graph, without(state, "2.weight"))


def test_missing_buffer() -> None:
    graph, state = zoo("conv_norms")
    with pytest.raises(GraphMismatchError, match=r"'1.running_var' .* the networks have nothing"):
        reader(graph)(graph, without(stacked(state), "1.running_var"))


@pytest.mark.parametrize("call", ["forward", "mixed"])
def test_wrong_shape(call: str) -> None:
    graph, state = dense()
    with pytest.raises(GraphMismatchError, match=r"'0.bias' of shape \(4,\), the networks have \(5,\)"):
        CALLS[call](reader(graph), graph, state | {"0.bias": torch.zeros(5).double()})


def test_networks_that_are_not_stacked() -> None:
    graph, state = dense()
    with pytest.raises(GraphMismatchError, match=r"'0.weight' of shape \(4, 3\), the networks have \(3,\)"):
        reader(graph)(graph, state)


def test_stacks_of_different_sizes() -> None:
    graph, state = dense()
    with pytest.raises(GraphMismatchError, match=r"stacked differently: \[\(1,\), \(2,\)\]"):
        reader(graph)(graph, stacked(state, state) | {"2.weight": state["2.weight"][None]})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_of_networks_that_are_not_finite(value: float) -> None:
    graph, state = dense()
    stack = {name: x.clone() for name, x in stacked(state, state).items()}
    stack["0.weight"][1, 0, 0] = value
    with pytest.raises(ValueError, match=r"'0\.weight' has non-finite values: leave such networks out"):
        reader(graph).fit_statistics(graph, stack)


def test_statistics_of_another_architecture() -> None:
    graph, _ = dense()
    other, state = zoo("siren")
    with pytest.raises(ValueError, match="only of the graphs that the metanetwork was made with"):
        reader(graph).fit_statistics(other, stacked(state))


def test_statistics_of_one_network_and_of_constants() -> None:
    """A parameter with one entry has no standard deviation, and one that never varies none to divide by."""
    graph, state = zoo("siren")
    state = {name: torch.ones_like(x) if "bias" in name else x for name, x in state.items()}
    model = reader(graph)
    model.fit_statistics(graph, stacked(state))
    other = {name: x + 0.1 for name, x in state.items()}
    assert model(graph, stacked(other)).isfinite().all()
    assert model(graph, stacked(other)).abs().max() < 100


OPTIONS: dict[str, tuple[dict, type[Exception], str]] = {
    "encoder": ({"encoder": "gnn"}, ValueError, r"encoder is one of .*'ng_gnn'.* got 'gnn'"),
    "task": ({"task": "regress"}, ValueError, r"task one of .*'classify'.* got .*'regress'"),
    "option": ({"depth": 3}, TypeError, "depth"),
    "option of another encoder": ({"encoder": "ng_gnn", "heads": 2}, TypeError, "heads"),
    "heads": ({"encoder": "ng_t", "attention": 30, "heads": 4}, ValueError, "30 is not a multiple of 4 heads"),
    "no copies": ({"copies": 0, "task": "edit"}, ValueError, "copies=0"),
    "copies of a vector": ({"copies": 2}, ValueError, "copies=2 is for task='edit'"),
    "probes without a module": ({"probes": 4}, ValueError, "probes need module= and example="),
    "faithful with sign": ({"faithful": True, "sign": True}, ValueError, "faithful is for .* without sign"),
    "faithful with copies": ({"faithful": True, "copies": 2, "task": "edit"}, ValueError, "without sign, probes"),
    "faithful NeuronFlow": ({"faithful": True, "encoder": "neuron_flow"}, ValueError, "faithful is for NG-GNN or NG-T"),
    "probes of an editor": (
        {"probes": 4, "task": "edit", "module": nn.Identity(), "example": torch.ones(1)}, ValueError, "probes for task"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(OPTIONS))
def test_options(what: str) -> None:
    options, error, message = OPTIONS[what]
    with pytest.raises(error, match=message):
        metanetwork(dense()[0], **options)


def test_faithful_to_two_architectures() -> None:
    with pytest.raises(ValueError, match="one architecture"):
        metanetwork([dense()[0], zoo("siren")[0]], faithful=True)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_mixtures_need_networks(encoder: str) -> None:
    graph, _ = dense()
    with pytest.raises(ValueError, match="at least one network"):
        reader(graph, encoder).mixed([])


@pytest.mark.parametrize("encoder", SWEEPS)
@pytest.mark.parametrize("task", ["classify", "edit"])
def test_published_models_name_what_is_wrong(encoder: str, task: str) -> None:
    graph, state = dense()
    model = metanetwork(graph, encoder=encoder, task=task, faithful=True).double().eval()
    stack = stacked(state, state)
    with pytest.raises(GraphMismatchError, match=r"'2\.weight' .* the networks have nothing"):
        model(graph, without(stack, "2.weight"))
    with pytest.raises(GraphMismatchError, match=r"'0.bias' of shape \(4,\), the networks have \(5,\)"):
        model(graph, stack | {"0.bias": torch.zeros(2, 5).double()})
    other, other_state = zoo("siren")
    with pytest.raises(GraphMismatchError, match="made for another one"):
        model(other, stacked(other_state))
