"""Every example runs on its tiny model, uses the neural graph, and learns."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ngopt
from ngopt.graph import __main__ as cli

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# What other packages warn of is theirs; what ngopt warns of shows in the assertions: a graph not captured is None.
ignoring_warnings = pytest.mark.filterwarnings("ignore")


def load(name: str) -> ModuleType:
    """Import an example from its file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(package: str) -> None:
    """Skip unless a package can be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(package, reason=f"the example needs {package}")


def test_every_example_is_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


@ignoring_warnings
def test_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    needs("sklearn")
    example = load("plain_loop")
    assert example.main(["--steps", "60"]) > 0.9
    assert "test accuracy" in capsys.readouterr().out
    assert example.main(["--steps", "3", "--optimizer", "adamw"]) < 0.9  # control: the task is not trivial


@ignoring_warnings
def test_hf_trainer(tmp_path: Path) -> None:
    needs("transformers")
    needs("accelerate")
    example = load("hf_trainer")
    state = torch.get_rng_state()
    whole = example.main(["--steps", "24", "--output", str(tmp_path)])
    optimizer = whole.optimizer.optimizer
    assert isinstance(optimizer, ngopt.NGOptimizer)
    assert {block.name for block in optimizer.graph.blocks} <= {name for name, _ in whole.model.named_parameters()}
    assert optimizer.param_groups[0]["step"] == 24
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]

    resumed = example.main(["--steps", "24", "--resume", str(tmp_path / "checkpoint-12")])
    assert resumed.optimizer.optimizer.param_groups[0]["step"] == 24
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    torch.set_rng_state(state)


@ignoring_warnings
def test_lightning_module() -> None:
    needs("lightning")
    example = load("lightning_module")
    module = example.main(["--epochs", "2"])
    (optimizer,) = module.trainer.optimizers
    assert isinstance(optimizer, ngopt.NGOptimizer)
    assert {block.name for block in optimizer.graph.blocks} == {name for name, _ in module.named_parameters()}
    assert optimizer.param_groups[0]["step"] == len(module.losses) == 32
    assert sum(module.losses[-8:]) < 0.8 * sum(module.losses[:8])


@ignoring_warnings
def test_predict_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file it says what to run; with one (untrained here) it predicts, and says what that is worth."""
    needs("sklearn")
    example = load("predict_accuracy")
    with pytest.raises(SystemExit):
        example.main(["--predictor", str(tmp_path / "none.safetensors")])
    assert "python -m benchmarks.cnn_generalization run --zoo wild" in capsys.readouterr().err
    rows = example.main(["--predictor", str(untrained_predictor(tmp_path)), "--steps", "0", "200"])
    assert rows[1][2] > 0.5 > rows[0][2]  # true accuracies: it has learned
    assert 0 < rows[0][1] < 1 and rows[0][1] != rows[1][1]
    assert "never replaces a test on data" in capsys.readouterr().out


@ignoring_warnings
def test_the_shipped_predictor(capsys: pytest.CaptureFixture[str]) -> None:
    """It ranks a network that has learned above one that has not, and its page says what its file says."""
    needs("sklearn")
    from benchmarks.cnn_generalization.card import page
    from benchmarks.cnn_generalization.predictor import MOST_BYTES, SHIPPED
    from benchmarks.cnn_generalization.predictor import load as read

    rows = load("predict_accuracy").main(["--steps", "0", "100"])
    assert rows[1][1] > rows[0][1] + 0.03
    assert SHIPPED.stat().st_size < MOST_BYTES
    assert SHIPPED.with_suffix(".md").read_text() == page(SHIPPED.stem, read().card)


def untrained_predictor(folder: Path) -> Path:
    """A file as a run of one step would leave it."""
    from benchmarks.cnn_generalization.accuracy import Accuracy
    from benchmarks.cnn_generalization.predictor import write
    from benchmarks.weight_space.config import configure
    from benchmarks.weight_space.models import build_model
    from benchmarks.weight_space.samples import Samples

    identity = {"suite": "cnn_generalization", "task": "accuracy", "dataset": "wild", "size": "smoke"}
    config = configure(**identity, encoder="ng_gnn", options={"width": 16})
    nothing, task = Samples((), torch.zeros(0)), Accuracy(0.0, 1.0)
    model = build_model(config, nothing, task)
    write(folder / "untrained.safetensors", model.state_dict(), config, task.saved(nothing), {})
    return folder / "untrained.safetensors"


def test_tiny_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that drew the README's picture, with the symmetries that the text promises."""
    model = load("tiny_transformer").tiny_transformer()
    graph = ngopt.trace(model, torch.randint(11, (2, 5)))
    assert sorted((s.degree, s.copies) for s in graph.symmetries) == [(3, 1), (4, 3), (4, 3), (12, 1), (16, 1)]
    picture = tmp_path / "graph.png"
    assert cli.main(["examples.tiny_transformer:tiny_transformer", "--input", "2,5:int", "--draw", str(picture)]) == 0
    assert "S_12" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def test_snippets_of_the_optimizer_page() -> None:
    """The Python snippets of docs/optimizer.md run, one after the other, in one namespace, without a warning."""
    page = (EXAMPLES.parent / "docs" / "optimizer.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 6
    namespace: dict[str, object] = {"__name__": "docs"}
    for snippet in snippets:
        exec(compile(snippet, "docs/optimizer.md", "exec"), namespace)
    assert namespace["optimizer"].skipped_steps == 1


@ignoring_warnings
def test_draw_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("sklearn")
    picture = tmp_path / "network.png"
    assert load("draw_network").main(["--steps", "100", "--out", str(picture)]) > 0.9
    assert picture.stat().st_size > 10_000 and str(picture) in capsys.readouterr().out


def test_read_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert load("read_network").main(10) >= 0.6  # by chance 0.1
    assert "a network of a 0 is read as a 0" in capsys.readouterr().out
