"""Metanetworks learn: the loss falls on a small real task, in float32, and gradients are finite in bf16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ngopt
from ngopt.encoder import metanetwork
from tests.encoder.cases import ENCODERS, State

STEPS = 30
COUNT = 32


def task() -> tuple[ngopt.NeuralGraph, State, Tensor, Tensor]:
    """Graph and parameters of networks, which of them have large outputs, and the inputs that these are for."""
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    graph = ngopt.trace(module, torch.randn(4, 3), certify=False)
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(COUNT, *p.shape, generator=generator) * (0.1 if p.ndim == 1 else p.shape[1] ** -0.5)
        for name, p in module.named_parameters()
    }
    x = torch.randn(16, 3, generator=generator)
    size = torch.func.vmap(lambda one: torch.func.functional_call(module, one, x))(params).abs().mean((1, 2))
    return graph, params, (size > size.median()).long(), x


def losses(encoder: str, labels_matter: bool = True) -> tuple[list[float], nn.Module]:
    graph, params, labels, _ = task()
    torch.manual_seed(0)
    model = metanetwork(graph, encoder=encoder, outputs=2)
    model.fit_statistics(graph, params)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if labels_matter else 0.0)
    found = []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(graph, params), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found, model


@pytest.mark.parametrize("encoder", ENCODERS)
def test_large_and_small_outputs_are_told_apart(encoder: str) -> None:
    found, _ = losses(encoder)
    assert 0.5 < found[0] < 1.0
    assert found[-1] < 0.5 * found[0], found


def test_nothing_is_learned_without_steps() -> None:
    """The control."""
    found, _ = losses("ng_gnn", labels_matter=False)
    assert abs(found[-1] - found[0]) < 1e-6


@pytest.mark.parametrize("encoder", ENCODERS)
def test_edits_are_learned(encoder: str) -> None:
    """New parameters whose outputs are to be twice as large."""
    graph, params, _, x = task()
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    run = torch.func.vmap(lambda one: torch.func.functional_call(module, one, x))
    wanted = 2 * run(params)
    torch.manual_seed(0)
    model = metanetwork(graph, encoder=encoder, task="edit")
    model.fit_statistics(graph, params)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = []
    for _ in range(STEPS):
        new = {name: y[:, 0] for name, y in model(graph, params).items()}
        loss = (run(new) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.6 * found[0], found


@pytest.mark.parametrize("readout", ["classify", "edit"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_in_bf16_are_finite_and_near_those_in_float32(encoder: str, readout: str) -> None:
    graph, params, labels, _ = task()
    torch.manual_seed(0)
    model = metanetwork(graph, encoder=encoder, task=readout, outputs=2)

    def gradients(bf16: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result = model(graph, params)
            if isinstance(result, dict):
                loss = sum((x.float() - params[name][:, None]).square().mean() for name, x in result.items())
            else:
                loss = nn.functional.cross_entropy(result.float(), labels)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact, rounded = gradients(bf16=False), gradients(bf16=True)
    assert rounded.isfinite().all() and exact.isfinite().all()
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.95
