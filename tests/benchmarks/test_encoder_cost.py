"""What reading networks costs: the rival computes the same, all ways agree, and the measures measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ngopt
from benchmarks.cost import command
from benchmarks.cost import encoder as encoder_cost
from benchmarks.cost.encoder import PAIRS, PYG, STACKS, main, table
from benchmarks.cost.encoder_networks import Batch, mixture
from benchmarks.cost.encoder_pairs import PairReader
from benchmarks.cost.memory import growth
from benchmarks.inr_data.siren import Siren
from ngopt.encoder import Metanetwork, metanetwork
from ngopt.encoder.layout import alike
from ngopt.encoder.metanetwork import DENSE_FROM
from ngopt.graph.neural_graph import NeuralGraph

Params = dict[str, Tensor]
EXACT = 1e-8
CNN = nn.Sequential(
    nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, (1, 5)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(4, 3),
)  # fmt: skip
encoders = pytest.mark.parametrize("encoder", ["ng_gnn", "ng_t"])


def stack(module: nn.Module, example: Tensor, count: int) -> tuple[NeuralGraph, Params]:
    graph = ngopt.trace(module, example, certify=False)
    return graph, {name: torch.randn(count, *x.shape, dtype=torch.float64) for name, x in module.named_parameters()}


def reader(graph: NeuralGraph, encoder: str, **options: object) -> Metanetwork:
    return metanetwork(graph, encoder=encoder, **options).double().eval()


@encoders
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("name", ["siren", "cnn"])
def test_all_pairs_compute_what_stacks_do(name: str, ordered: bool, encoder: str) -> None:
    """The same numbers and gradients, with kernels of several sizes among them."""
    graph, params = (
        stack(Siren(hidden=6), torch.randn(4, 2), 3) if name == "siren" else stack(CNN, torch.randn(2, 2, 8, 8), 3)
    )
    model = reader(graph, encoder, ordered=ordered, layers=2)
    pairs = PairReader(model, graph).double()
    dense, grid = model(graph, params), pairs(params)
    assert (dense - grid).abs().max() < EXACT
    assert (dense[0] - dense[1]).abs().max() > 1e-4  # control: networks differ
    gradients = [
        torch.autograd.grad(x.square().sum(), list(model.parameters()), materialize_grads=True) for x in (dense, grid)
    ]
    for x, y in zip(*gradients, strict=True):
        assert (x - y).abs().max() < EXACT * (1 + x.abs().max())
    pairs.mask.fill_(True)  # control: the mask is what tells pairs from edges
    assert (pairs(params) - dense).abs().max() > 1e-4


@pytest.mark.parametrize("grouped", [True, False])
def test_a_grid_is_for_chains(grouped: bool) -> None:
    convolution = nn.Conv2d(4, 4, 3, groups=2) if grouped else nn.Conv2d(4, 4, 3)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)]
    graph, _ = stack(nn.Sequential(*layers), torch.randn(2, 2, 8, 8), 1)  # flattened: many edges between two nodes
    with pytest.raises(ValueError, match="not a chain"):
        PairReader(reader(graph, "ng_gnn"), graph)


@pytest.fixture(scope="module")
def crowd() -> Batch:
    """Three architectures, as many of each as make a stack."""
    torch.manual_seed(0)
    batch = mixture(2, DENSE_FROM, "cpu")
    graph, params = stack(CNN, torch.randn(2, 2, 8, 8), DENSE_FROM)
    doubles = [(graph, {name: x.double() for name, x in params.items()}) for graph, params in batch.stacks]
    return Batch("crowd", (*doubles, (graph, params)))


@encoders
@pytest.mark.parametrize("task", ["classify", "edit"])
def test_read_is_mixed_in_the_order_given(crowd: Batch, task: str, encoder: str) -> None:
    """There is enough of one architecture for a stack, and of two others there is not."""
    model = reader(crowd.stacks[0][0], encoder, task=task, copies=2 if task == "edit" else 1)
    few, many = crowd.first(1).networks()[:2], crowd.networks()[-DENSE_FROM:]
    networks = [many[0], few[0], *many[1:], few[1]]
    assert sorted(map(len, alike([graph for graph, _ in networks]))) == [1, 1, DENSE_FROM]
    for own, other in zip(model.read(networks), model.mixed(networks), strict=True):
        pairs = [(own, other)] if isinstance(own, Tensor) else [(own[name], other[name]) for name in other]
        assert isinstance(own, Tensor) or own.keys() == other.keys()
        assert all(x.shape == y.shape and (x - y).abs().max() < 1e-10 for x, y in pairs)


def test_encoders_without_mixtures_read_stacks(crowd: Batch) -> None:
    model = reader(crowd.stacks[0][0], "neuron_flow")
    networks = crowd.first(1).networks()
    expected = torch.cat([model(graph, params) for graph, params in crowd.first(1).stacks])
    assert (model.read(networks) - expected).abs().max() < 1e-10
    with pytest.raises(ValueError, match="at least one"):
        model.read([])


def test_the_same_architecture_traced_twice_is_alike() -> None:
    graphs = [ngopt.trace(Siren(hidden=size), torch.randn(4, 2), certify=False) for size in (5, 6, 5)]
    assert alike(graphs) == [[0, 2], [1]]


def test_architectures_of_a_mixture_differ() -> None:
    batch = mixture(2, 3, "cpu")
    assert len(batch) == 6 and len(batch.networks()) == 6
    assert len({graph.fingerprint() for graph, _ in batch.stacks}) == 2
    assert [len(one) for one in batch.alone()] == [1, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_peak_memory_counts_what_is_held_at_once() -> None:
    """One tensor after the other, and both at once; the first read makes what is made once."""
    size = 2**24  # of 4 bytes: 64 MiB

    def one() -> None:
        for _ in range(2):
            torch.ones(size)

    def both() -> None:
        kept = torch.ones(size)
        kept + kept

    growth(one, "cpu")
    assert 60 < growth(one, "cpu") < 80
    assert 124 < growth(both, "cpu") < 150


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, writes what it prints, and prints the same again."""
    monkeypatch.setattr(encoder_cost, "_peaks", lambda name, device: {f"ng_gnn True {STACKS} step": 1.0})
    output = tmp_path / "cost.json"
    main(["--smoke", "--output", str(output), "--clock", "cpu"])
    printed = capsys.readouterr().out
    rows = json.loads(output.read_text())["rows"]
    assert printed == table(rows) + "\n"
    assert {row["path"] for row in rows if row["table"] == "paths"} == {STACKS, PYG, PAIRS}
    assert {row["copies"] for row in rows if row["table"] == "threshold"} == {1, 2}
    assert all(row["step_networks_per_s"] > 0 for row in rows if row["table"] == "paths")
    page = tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    page.write_text(fill_me := "<!-- table: encoder_cost -->\n<!-- end of table: encoder_cost -->\n")
    monkeypatch.chdir(tmp_path)
    main(["--report", "--output", str(output)])
    assert capsys.readouterr().out == table(rows) + "\n"
    assert page.read_text() == fill_me, "only published results go into the pages"
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    output.rename(tmp_path / "encoder_cost.json")
    main(["--report"])
    assert table(rows) in page.read_text()


def test_ratios_are_over_all_pairs() -> None:
    row = {"table": "paths", "batch": "b", "device": "cpu", "encoder": "ng_t", "ordered": True, "networks": 2}
    cost = {"forward_networks_per_s": 8.0, "step_networks_per_s": 6.0, "forward_peak_mib": 1.0, "step_peak_mib": 5.0}
    grid = {"forward_networks_per_s": 2.0, "step_networks_per_s": 3.0, "forward_peak_mib": 10.0, "step_peak_mib": None}
    text = table([row | cost | {"path": STACKS}, row | grid | {"path": PAIRS}])
    assert "| in order | stacks | 8 | 6 | 1 | 5 | 4.00 | 2.00 | 0.10 |  |" in text
