"""Views of a graph for people and for other libraries: table, picture, PyG data, command line."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import ngopt
from ngopt.graph import drawing
from ngopt.graph.drawing_neurons import draw_neurons
from tests.graph import factories
from tests.graph.checks import traced_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what torch has deprecated
    pytest.importorskip("torch_geometric.data")

ROOT = Path(__file__).resolve().parents[2]


def has_line(text: str, *words: str) -> bool:
    """Whether one line has all these words."""
    return any(all(word in line for word in words) for line in text.splitlines())


def test_summary_names_what_there_is():
    run = traced_model("unet")
    text = run.graph.summary()
    assert f"{sum(p.numel() for p in run.module.parameters()):,} parameters" in text
    for group in run.graph.groups:
        assert has_line(text, group.name, group.kind, str(group.size))
    for block in run.graph.blocks:
        assert has_line(text, block.name, block.role, "x".join(map(str, block.shape)))
    for symmetry in run.graph.symmetries or ():
        size = f"S_{symmetry.degree}" + (f" ^ {symmetry.copies}" if symmetry.copies > 1 else "")
        assert has_line(text, symmetry.name, symmetry.kind, size)
    assert "certified" in text
    assert "not certified" not in text


def test_summary_says_what_was_not_checked():
    graph = ngopt.trace(factories.mlp(), torch.randn(2, 5), certify=False)
    assert "not certified" in graph.summary()


def test_summary_names_tied_parameters():
    module = nn.Sequential(nn.Embedding(11, 7), nn.Linear(7, 11, bias=False))
    module[1].weight = module[0].weight
    text = ngopt.trace(module, torch.tensor([[1, 2]])).summary()
    assert any("0.weight" in line and "=1.weight" in line for line in text.splitlines())


@pytest.mark.parametrize("name", ["mlp", "unet", "multihead_attention", "lstm", "unused_parameters"])
def test_draw_makes_a_picture(name: str, tmp_path: Path):
    import matplotlib.image

    traced_model(name).graph.draw(tmp_path / "graph.png")
    picture = matplotlib.image.imread(tmp_path / "graph.png")
    height, width, _ = picture.shape
    assert min(height, width) > 200
    colours = {tuple(c) for c in picture.reshape(-1, picture.shape[2])[::7].round(2).tolist()}
    assert len(colours) > 5  # boxes, lines and text, not a blank page
    assert 0.02 < (picture[..., :3].mean(-1) < 0.98).mean() < 0.9


class Canvas:
    """Notes what is drawn into it, in place of matplotlib's axes."""

    def __init__(self) -> None:
        self.lines: list[tuple[list[float], tuple, float]] = []  # end points, colour, width
        self.dots, self.boxes, self.texts = 0, 0, []

    def add_collection(self, collection) -> None:
        for segment, colour, width in zip(
            collection.get_segments(), collection.get_colors(), collection.get_linewidths(), strict=True
        ):
            self.lines.append((segment.flatten().tolist(), tuple(colour), float(width)))

    def scatter(self, x, y, **options) -> None:
        self.dots += len(x)

    def add_patch(self, patch) -> None:
        self.boxes += 1

    def text(self, x, y, words, **options) -> None:
        self.texts.append(words)

    def __getattr__(self, name: str):
        return lambda *args, **options: None


def test_neurons_are_dots_and_weights_are_lines_of_their_sign_and_size():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].weight[4, 2] = -2.0
    graph = ngopt.trace(model, torch.randn(2, 3))
    canvas = Canvas()
    draw_neurons(canvas, graph, model.state_dict())
    assert (len(canvas.lines), canvas.dots, canvas.boxes) == (3 * 5 + 5 * 2, 10, 0)
    assert any("$S_{5}$" in text and "tanh" in text for text in canvas.texts)
    first = [line for line in canvas.lines if line[0][0] == 0.0]
    widest = max(first, key=lambda line: line[2])
    red, _, blue, _ = widest[1]
    assert red > blue and all(c[2] > c[0] for _, c, w in first if w < widest[2])
    plain = Canvas()
    draw_neurons(plain, graph)
    assert len({(colour, width) for _, colour, width in plain.lines}) == 1  # control: no values, no differences


def test_heads_have_boxes():
    graph = traced_model("multihead_attention").graph
    canvas = Canvas()
    draw_neurons(canvas, graph)
    assert canvas.boxes >= 2


def test_detail_is_chosen_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(drawing, "draw_neurons", lambda *args: drawn.append(args))
    small = ngopt.trace(nn.Linear(3, 2), torch.randn(2, 3))
    large = ngopt.trace(nn.Linear(600, 2), torch.randn(2, 600))
    for graph, detail, times in ((small, "auto", 1), (small, "overview", 1), (large, "auto", 1), (large, "neurons", 2)):
        graph.draw(tmp_path / "graph.png", detail=detail)
        assert len(drawn) == times
    with pytest.raises(ValueError, match="detail is"):
        small.draw(tmp_path / "graph.png", detail="fine")
    with pytest.raises(ngopt.GraphMismatchError, match="weight"):
        small.draw(tmp_path / "graph.png", {"weight": torch.zeros(9)})


def test_draw_takes_other_formats(tmp_path: Path):
    graph = traced_model("mlp").graph
    graph.draw(str(tmp_path / "graph.svg"))
    assert "<svg" in (tmp_path / "graph.svg").read_text()


@pytest.mark.parametrize("name", ["mlp", "unet", "multihead_attention", "lstm", "soft_moe", "unused_parameters"])
def test_pyg_data_is_valid(name: str):
    run = traced_model(name)
    data = run.graph.to_pyg(run.state)
    assert data.validate(raise_on_error=True)
    assert data.num_nodes == run.graph.num_nodes
    assert data.num_edges == run.graph.num_parameters
    for index, block in enumerate(run.graph.blocks):  # values go in, and come back bit for bit
        values = data.edge_value[data.edge_block == index]
        assert torch.equal(block.from_matrix(values.reshape(block.matrix_shape)), run.state[block.name])
    assert run.graph.to_pyg().num_edges == data.num_edges


def test_pyg_data_moves_with_a_generator():
    """Permuting parameters is relabelling nodes: the multiset of (in, out, value) is the same after relabelling."""
    run = traced_model("mlp")
    before = run.graph.to_pyg(run.state)
    for generator in run.graph.generators():
        after = run.graph.to_pyg(generator.apply(run.state))
        changed = (before.edge_value != after.edge_value).nonzero().flatten()
        assert len(changed)
        assert torch.equal(before.edge_value.sort().values, after.edge_value.sort().values)
        moved = before.edge_index[:, changed].flatten().unique()
        touched = {g.name for g in run.graph.groups if ((moved >= g.start) & (moved < g.stop)).any() and not g.frozen}
        assert any(generator.name.startswith(name) for name in touched)


def test_pyg_data_refuses_another_state():
    run = traced_model("mlp")
    with pytest.raises(ngopt.GraphMismatchError, match=r"0\.weight"):
        run.graph.to_pyg({k: v for k, v in run.state.items() if k != "0.weight"})


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ngopt.graph`` from the root of the repository."""
    command = [sys.executable, "-m", "ngopt.graph", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_command_line(tmp_path: Path):
    picture = tmp_path / "mlp.png"
    result = command_line("tests.graph.factories:mlp", "--input", "2,5", "--draw", str(picture))
    assert result.returncode == 0, result.stderr
    assert "S_7" in result.stdout
    assert "S_11" in result.stdout
    assert "0.weight" in result.stdout
    assert picture.stat().st_size > 5000


def test_command_line_says_what_is_wrong():
    missing = command_line("tests.graph.factories:nothing", "--input", "2,5")
    assert missing.returncode == 2
    assert "nothing" in missing.stderr
    unfit = command_line("tests.graph.factories:mlp", "--input", "2,6")
    assert unfit.returncode == 1
    assert "error:" in unfit.stderr
    assert "Traceback" not in unfit.stderr
