"""Large weights are read by their logarithm: a percent more changes little, and twice as much is seen at any size."""

import sys

import pytest
import torch
from torch import nn

import ngopt
from ngopt.encoder import characters, metanetwork
from tests.encoder.cases import SWEEPS

metanetworks = sys.modules["ngopt.encoder.metanetwork"]  # the function of the package has the module's name


def change(encoder: str, scale: float, factor: float) -> float:
    """How far outputs move when weights of a size are multiplied, in standard deviations over networks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    graph = ngopt.trace(net, torch.randn(2, 5))
    params = {name: torch.randn(16, *p.shape) for name, p in net.named_parameters()}
    model = metanetwork(graph, encoder=encoder, outputs=4).eval()
    model.fit_statistics(graph, params)
    with torch.no_grad():
        usual = model(graph, params)
        large = model(graph, {name: scale * p for name, p in params.items()})
        larger = model(graph, {name: factor * scale * p for name, p in params.items()})
    assert large.isfinite().all()
    return ((larger - large).abs().mean() / usual.std(0).mean()).item()


@pytest.mark.parametrize("encoder", SWEEPS)
def test_large_weights_are_read_by_their_logarithm(encoder: str) -> None:
    assert change(encoder, 10, 1.01) < 0.08
    assert change(encoder, 1e5, 2.0) > 0.1


@pytest.mark.parametrize("encoder", SWEEPS)
def test_as_they_are_they_would_be_noise_or_all_the_same(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(metanetworks, "compressed", lambda x: x)
    assert change(encoder, 10, 1.01) > 0.1
    assert change(encoder, 1e5, 2.0) < 0.1


def test_neuron_flow_reads_large_sums_by_their_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are raw: what is compressed is what neurons hear."""
    assert change("neuron_flow", 10, 1.01) < 0.08
    compressed = change("neuron_flow", 1e5, 1.01)
    assert change("neuron_flow", 1e5, 2.0) > 10 * compressed
    monkeypatch.setattr(characters, "_compressed", lambda z, n: z)
    assert change("neuron_flow", 1e5, 1.01) > 1.5 * compressed  # control
