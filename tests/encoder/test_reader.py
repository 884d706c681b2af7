"""Readers as files: what was saved is what is read, and nothing is believed that was not checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ngopt
from ngopt.encoder import load_reader, metanetwork
from ngopt.encoder.reader import SHIPPED, save_reader
from ngopt.errors import CheckpointError, GraphMismatchError
from ngopt.tensor_files import HEADER

OPTIONS = {"task": "classify", "outputs": 3, "encoder": "neuron_flow", "width": 8, "hidden": 8}


class Net(nn.Module):
    def __init__(self, hidden: int = 5, function=torch.sin) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(2, hidden), nn.Linear(hidden, 1), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(30 * self.a(x)))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    graph = ngopt.trace(Net(), torch.rand(4, 2), scalings=True)
    model = metanetwork(graph, **OPTIONS).eval()
    path = save_reader(tmp_path / "r.safetensors", graph, model.state_dict(), OPTIONS, {"outputs": "three"})
    return path, model


def test_what_was_saved_is_read(saved: tuple[Path, nn.Module]) -> None:
    path, model = saved
    reader, net = load_reader(path), Net()
    assert reader.card == {"outputs": "three"}
    graph = ngopt.trace(net, torch.rand(4, 2), scalings=True)
    params = {name: p.detach()[None] for name, p in net.named_parameters()}
    found = reader(net, torch.rand(9, 2))  # an input of another size is as good
    torch.testing.assert_close(found, model(graph, params)[0].detach())
    assert not torch.allclose(found, reader(Net(), torch.rand(4, 2))), "control: another network, another answer"


def test_foreign_networks_are_refused(saved: tuple[Path, nn.Module]) -> None:
    reader = load_reader(saved[0])
    with pytest.raises(GraphMismatchError, match=r"reads networks with parameters.*has parameters .*\[6, 2\]"):
        reader(Net(6), torch.rand(4, 2))
    with pytest.raises(GraphMismatchError, match="computes something else from them"):
        reader(Net(function=torch.relu), torch.rand(4, 2))
    bad = Net()
    with torch.no_grad():
        bad.a.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"a.weight hold NaN"):
        reader(bad, torch.rand(4, 2))


@pytest.mark.parametrize("damage", ["half", "byte", "tensor", "format", "json", "nan"])
def test_damaged_files_are_refused(saved: tuple[Path, nn.Module], damage: str, tmp_path: Path) -> None:
    path, model = saved
    data = path.read_bytes()
    if damage == "half":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "byte":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "nan":
        state = {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
        graph = ngopt.trace(Net(), torch.rand(4, 2), scalings=True)
        with pytest.raises(CheckpointError, match="hold NaN"):
            save_reader(path, graph, state, OPTIONS, {})
        return
    else:
        tensors = load_file(path)
        if damage == "tensor":
            tensors.pop(next(iter(tensors)))
        length = int.from_bytes(data[:8], "little")
        entry = json.loads(data[8 : 8 + length])["__metadata__"][HEADER]
        entry = {"tensor": entry, "format": entry.replace("ngopt-reader-2", "ngopt-reader-9"), "json": "{"}[damage]
        save_file(tensors, path, {HEADER: entry})
    with pytest.raises(CheckpointError, match="not a reader that this ngopt can read"):
        load_reader(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no reader 'mnits'"):
        load_reader("mnits")
    with pytest.raises(CheckpointError, match="no reader"):
        load_reader(tmp_path / "none.safetensors")
    graph = ngopt.trace(Net(), torch.rand(4, 2), scalings=True)
    with pytest.raises(CheckpointError, match="should end in"):
        save_reader(tmp_path / "x.bin", graph, {}, OPTIONS, {})


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_readers_are_small_and_say_what_they_are(path: Path) -> None:
    assert path.stat().st_size < 2_000_000
    card = load_reader(path.stem).card
    assert {"what it is", "outputs", "test", "made by", "limits", "licence"} <= card.keys()
    page = path.with_suffix(".md").read_text()
    assert all(f"**{key}**" in page for key in card)
