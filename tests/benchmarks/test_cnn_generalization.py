"""python -m benchmarks.cnn_generalization, from end to end on made-up zoos; measures, symmetry, and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, r2_score

from benchmarks.cnn_generalization import __main__ as program
from benchmarks.cnn_generalization import problem
from benchmarks.cnn_generalization.accuracy import CNNS, Accuracy
from benchmarks.cnn_generalization.faithful import plan
from benchmarks.cnn_generalization.measures import intervals, measures
from benchmarks.cnn_generalization.predictor import Predictor, PredictorError, load, save
from benchmarks.cnn_zoo import Architecture
from benchmarks.cnn_zoo.layers import Conv, TokenBlock
from benchmarks.common import manifests
from benchmarks.common.results import read_results
from benchmarks.weight_space.config import ConfigError, configure
from benchmarks.weight_space.folder import NETWORKS, STATE, TrainingError
from benchmarks.weight_space.models import build_model
from benchmarks.weight_space.samples import NOT_FINITE, Samples, Stack
from meta_train.tensor_files import read_tensors
from tests.benchmarks import zoo_cases
from tests.benchmarks.weight_space_cases import killed_at
from tests.graph.test_errors import reverse_cumulate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
COMMON = {"suite": "cnn_generalization", "task": "accuracy", "size": "smoke"}


@pytest.fixture(autouse=True)
def zoos(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"wild": zoo_cases.wild(), "small-mnist": zoo_cases.small()}
    monkeypatch.setattr(problem, "load", lambda zoo, size, root: made[zoo])


def run(out: Path, words: str) -> dict[str, Any]:
    """Run a command; returns its row."""
    program.main(["run", "--smoke", "--out", str(out), *words.split()])
    zoo = words.split()[words.split().index("--zoo") + 1]
    return read_results(out / "results" / "cnn_generalization" / f"{zoo}_smoke.json")["rows"][-1]


def samples() -> Samples:
    return problem.make_samples("train", zoo_cases.wild()["train"], True)


def test_run_report_save_and_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = run(tmp_path, "--zoo wild --encoder ng_gnn --option width=16")
    assert row["networks"] == {"train": 16, "val": 8, "test": 8, "wider": 4}
    assert row["shifted"][CNNS] == row["test"] and CNNS in row["intervals"]
    assert set(row["test"]) == set(row["shifted"]["wider"]) == {"tau", "r2", "mae"}
    low, high = row["intervals"]["wider"]["tau"]
    assert -1 <= low <= high <= 1
    assert "scatter" not in row
    assert row["command"].startswith("python -m benchmarks.cnn_generalization run --smoke")
    trees = run(tmp_path, "--zoo wild --encoder statistics")
    assert trees["networks"] == row["networks"]

    page, results = tmp_path / "page.md", tmp_path / "small"
    file = tmp_path / "results" / "cnn_generalization" / "wild_smoke.json"
    for source in (file, file.parent / "scatter" / file.name):  # rows of size smoke are not shown: call it small
        target = results / source.relative_to(tmp_path / "results").with_name("wild_small.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text().replace('"smoke"', '"small"'))
    page.write_text("<!-- table: cnn_generalization -->\n<!-- end of table: cnn_generalization -->\n")
    words = ["--results", str(results), "--images", str(tmp_path / "images"), "--pages", str(page)]
    program.main(["report", *words])
    text = page.read_text()
    assert (
        "τ-b on test, CNNs only" in text
        and "τ-b on wider" in text
        and "`python -m benchmarks.cnn_generalization run --zoo wild --size small" in text
    )
    assert "Not run (wild, size small): neuron_flow, ng_gnn faithful, ng_gnn no-activations, ng_t" in text
    assert "Not run at all: small-mnist, small-fashion_mnist, small-cifar10." in text
    for name in ("cnn_generalization_wild_small.png", "cnn_generalization_wild_small_scatter.png"):
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")

    folder = tmp_path / "cnn_generalization" / "wild-smoke" / "ng_gnn-width16-seed0"
    predict = load(save(folder, tmp_path / "predictor.safetensors"))
    assert (
        predict.card["zoo"] == "wild"
        and predict.card["test"] == row["test"]
        and "never replaces" in predict.card["limits"]
    )
    card = (tmp_path / "predictor.md").read_text()
    assert f"| wider | {row['shifted']['wider']['tau']:.3f} [" in card and "never replaces" in card
    (bucket,) = zoo_cases.wild()["wider"]
    module = bucket.architecture.build()
    module.load_state_dict({name: p[1] for name, p in bucket.params.items()}, strict=False)
    kept = read_results(file.parent / "scatter" / file.name)["rows"][0]["scatter"]["wider"]
    assert predict(module, bucket.architecture.example()) == pytest.approx(kept["predicted"][1] / 100, abs=2e-4)
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)
    with pytest.raises(PredictorError, match=r"convs.0.weight hold NaN"):
        predict(module, bucket.architecture.example())
    with pytest.raises(PredictorError, match="predictors are metanetworks"):
        save(folder.with_name("statistics-seed0"), tmp_path / "trees.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        "--zoo wild --encoder ng_gnn --faithful --option width=8 layers=2",
        "--zoo wild --encoder ng_t --faithful --no-activations --option layers=1 width=8 attention=8 heads=2",
        "--zoo wild --encoder ng_t --no-activations --option width=16",
        "--zoo small-mnist --encoder neuron_flow --option width=16",
        "--zoo small-mnist --encoder mlp",
        "--zoo small-mnist --encoder statistics",
    ],
)
def test_encoders_and_baselines(words: str, tmp_path: Path) -> None:
    row = run(tmp_path, words)
    assert all(np.isfinite(list(row["test"].values())))
    assert ("no-activations" in row["variant"]) == ("--no-activations" in words)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--zoo wild --encoder ng_gnn --checkpoint-steps 1 --option width=8 dropout=0.2"
    whole = run(tmp_path / "whole", words)
    calls = killed_at(3, Accuracy, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", words)
    killed = run(tmp_path / "killed", words)
    assert killed["test"] == whole["test"] and len(calls) == 3 + 2  # of four steps
    states = [read_tensors(next((tmp_path / name).rglob(STATE)))[0] for name in ("whole", "killed")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("which", range(4), ids=["plain", "batch norm", "flatten", "layer norm"])
@pytest.mark.parametrize(
    ("encoder", "faithful"),
    [("ng_gnn", False), ("ng_gnn", True), ("ng_t", True), ("neuron_flow", False), ("mlp", False)],
)
def test_predictions_do_not_depend_on_the_order_of_neurons(encoder: str, faithful: bool, which: int) -> None:
    """The control: a model of flat weights fails."""
    config = configure(**COMMON, dataset="small-mnist", encoder=encoder, faithful=faithful, options={"width": 16})
    stack = samples().stacks[which]
    double = {name: p.double() for name, p in stack.params.items()}
    whole = Samples((Stack(stack.graph, double),), torch.rand(4))
    model = build_model(config, whole, Accuracy(0.0, 1.0)).double().eval()
    model.fit_statistics(stack.graph, double)
    before, moved = model(stack.graph, double), double
    for generator in stack.graph.generators():
        each = [generator.apply({name: p[i] for name, p in moved.items()}) for i in range(4)]
        moved = {name: torch.stack([one[name] for one in each]) for name in moved}
    assert not torch.equal(moved["convs.0.weight"], double["convs.0.weight"])
    error = ((model(stack.graph, moved) - before).abs().max() / before.std()).item()
    assert error > 1e-3 if encoder == "mlp" else error < 1e-8


def read(encoder: str, bucket: Any, **values: Any) -> torch.Tensor:
    """What a model of fixed weights says of the networks of a bucket."""
    config = configure(**COMMON, dataset="wild", encoder=encoder, options={"width": 16}, **values)
    whole = problem.make_samples("train", [bucket], config.sign)
    model = build_model(config, whole, Accuracy(0.0, 1.0), known=[]).eval()
    with torch.no_grad():
        return model(whole.stacks[0].graph, whole.stacks[0].params)


def norms_and_shortcuts(norm: str) -> Any:
    """Networks whose neurons are written to by several layers: with a shortcut's own weights, and without."""
    convs = [Conv(4, 3, 1, 1, "tanh", norm), Conv(6, 3, 1, 1, "relu", norm)]
    convs += [Conv(6, 3, 1, 1, "gelu", norm, 0), Conv(6, 3, 1, 1, "silu", norm, 1)]
    return zoo_cases.bucket(Architecture("residual", (1, 8, 8), tuple(convs)), 3, 0)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("encoder", ["ng_gnn", "ng_t"])
def test_published_models_see_every_parameter(encoder: str, norm: str) -> None:
    bucket = norms_and_shortcuts(norm)
    before = read(encoder, bucket, faithful=True)
    assert torch.equal(before, read(encoder, bucket, faithful=True))
    for name, p in bucket.params.items():
        after = read(encoder, dataclasses.replace(bucket, params=bucket.params | {name: p + 0.5}), faithful=True)
        assert (after - before).abs().max() > 1e-5 * before.abs().max(), name


def test_positions_of_published_models_follow_the_layers() -> None:
    """Layers that add to neurons which have a place already do not count, wherever they are registered."""
    made = plan(problem.traced(norms_and_shortcuts("batch").architecture, False))
    layers = made.positions - made.inputs
    hidden = layers[(layers >= 0) & (made.positions < made.position_rows - len(made.outputs))]
    assert hidden.bincount().tolist() == [4, 6, 6]  # the last two convolutions write to the same neurons' groups


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("encoder", ["ng_gnn", "ng_t"])
def test_hidden_activations_are_hidden(encoder: str, faithful: bool) -> None:
    """ReLU has a scale symmetry that GELU has not: the canonical form would tell."""
    bucket = zoo_cases.bucket(zoo_cases.tiny("relu"), 3, 0)
    other = dataclasses.replace(bucket, architecture=zoo_cases.tiny("gelu"))
    for hidden in (True, False):
        values = {"faithful": faithful, **({"activations": False} if hidden else {})}
        same = torch.allclose(read(encoder, bucket, **values), read(encoder, other, **values), atol=1e-6)
        assert same == hidden


def test_trees_learn_what_can_be_learned(tmp_path: Path) -> None:
    """With shuffled targets, the control, they learn nothing."""
    config = configure(**COMMON, dataset="small-mnist", encoder="statistics")

    def tau(shuffled: bool) -> float:
        sets = zoo_cases.small(train=150)
        for bucket in sets["train"] if shuffled else []:
            bucket.accuracy.copy_(bucket.accuracy[torch.randperm(150, generator=torch.Generator().manual_seed(0))])
        made = problem.make_problem(config, sets)
        return problem.fit_trees(config, made.task, made.splits, tmp_path)["test"]["tau"]

    assert tau(False) > 0.5 > 0.3 > tau(True)


def test_cnns_are_measured_on_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mixer = Architecture("mixer", (1, 8, 8), patch=4, width=8, blocks=(TokenBlock("mix", 8, "relu"),))
    sets = zoo_cases.wild()
    sets["test"].append(zoo_cases.bucket(mixer, 4, 77))
    monkeypatch.setattr(problem, "load", lambda zoo, size, root: sets)
    words = "--zoo wild --encoder ng_gnn --option width=8 layers=1"
    whole = run(tmp_path / "whole", words)
    assert whole["networks"]["test"] == 12 and whole["shifted"][CNNS] != whole["test"]
    published = run(tmp_path / "published", f"{words} --faithful")
    assert published["networks"]["test"] == 8 and published["shifted"][CNNS] == published["test"]


def test_a_zoo_that_was_made_anew_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place, words = tmp_path / "zoo" / "small-mnist-smoke", "--zoo small-mnist --encoder statistics"
    place.mkdir(parents=True)

    def manifest(sha256: str) -> None:
        shards = [{"file": "00000.safetensors", "sha256": sha256}]
        (place / manifests.MANIFEST).write_text(json.dumps({"shards": shards}))

    manifest("a")
    row = run(tmp_path, f"{words} --data-root {tmp_path}")
    assert row["networks_sha256"] == manifests.digest(place)
    assert run(tmp_path, f"{words} --data-root {tmp_path}") == row
    manifest("b")
    assert row["networks_sha256"] != manifests.digest(place)
    with pytest.raises(TrainingError, match="a run on other networks: small-mnist-smoke has been made anew"):
        run(tmp_path, f"{words} --data-root {tmp_path}")
    next(tmp_path.rglob(NETWORKS)).unlink()  # as folders were before there were digests
    assert run(tmp_path, f"{words} --data-root {tmp_path}") == row


def test_batches_of_many_architectures() -> None:
    some = samples()
    order = some.order(torch.Generator().manual_seed(0), together=2)
    assert sorted(order.tolist()) == list(range(16))
    stack_of = order // 4
    assert (stack_of[::2] == stack_of[1::2]).all() and not (order.diff() == 1).all()
    batch = some[order[:6]]
    assert sorted(batch.targets.tolist()) == sorted(some.targets[order[:6]].tolist())
    place = 0
    for stack in batch.stacks:
        for k in range(len(stack)):
            (where,) = (some.targets == batch.targets[place]).nonzero().flatten().tolist()
            source = some.stacks[where // 4]
            assert source.graph is stack.graph
            assert all(torch.equal(p[k], source.params[name][where % 4]) for name, p in stack.params.items())
            place += 1
    assert torch.equal(some[slice(3, 9)].targets, some.targets[3:9])


def test_measures_are_those_of_scipy_and_scikit_learn() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 20, 60) / 20  # with ties
    predicted = np.clip(true + random.normal(0, 0.2, 60), 0, 1)
    found = measures(predicted, true)
    assert found["tau"] == pytest.approx(kendalltau(predicted, true, variant="b").statistic)
    assert found["r2"] == pytest.approx(r2_score(true, predicted))
    assert found["mae"] == pytest.approx(100 * mean_absolute_error(true, predicted))
    assert measures(np.full(60, 0.5), true)["tau"] == 0
    assert np.isnan(measures(np.full(60, np.nan), true)["tau"])


def test_intervals_draw_whole_runs() -> None:
    random = np.random.default_rng(0)
    true = np.repeat(random.random(20), 10)
    predicted = true + np.repeat(random.normal(0, 0.2, 20), 10)  # checkpoints of a run are wrong together
    low, high = intervals(predicted, true, np.repeat(np.arange(20), 10))["mae"]
    alone = intervals(predicted, true, np.arange(200))["mae"]
    assert low < measures(predicted, true)["mae"] < high
    assert high - low > 2 * (alone[1] - alone[0])


def test_bad_networks_are_left_out_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = zoo_cases.wild()["train"]
    first.params["convs.0.weight"][1] = torch.inf
    first.accuracy[2] = torch.nan
    real = problem.traced
    monkeypatch.setattr(problem, "traced", lambda a, s: None if a == second.architecture else real(a, s))
    found = problem.make_samples("train", [first, second])
    assert len(found) == 2 and torch.equal(found.runs, first.run[[0, 3]])
    assert {why: len(which) for why, which in found.left_out.items()} == {
        NOT_FINITE: 1,
        problem.NO_ACCURACY: 1,
        problem.FROZEN: 4,
    }
    assert found.left_out[NOT_FINITE] == ("run 0 step 1",)
    with pytest.raises(ValueError, match=r"Split train has no network.*4 left out, as architecture was frozen"):
        problem.make_samples("train", [second])
    with pytest.raises(ValueError, match="it is empty"):
        problem.make_samples("val", [])


def test_files_that_do_not_fit_the_architecture() -> None:
    first = zoo_cases.wild()["train"][0]
    for params in (
        {name: p for name, p in first.params.items() if name != "head.bias"},
        first.params | {"head.bias": torch.zeros(4, 7)},
    ):
        with pytest.raises(ValueError, match=r"'head.bias' of relu none.*manifest do not fit"):
            problem.make_samples("train", [dataclasses.replace(first, params=params)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "mnist", "encoder": "ng_gnn"}, "no zoo 'mnist'"),
        ({"dataset": "wild", "encoder": "mlp_aug"}, "no encoder 'mlp_aug'"),
        ({"dataset": "wild", "encoder": "ng_gnn", "probes": 3}, "probes are for"),
        ({"dataset": "wild", "encoder": "ng_gnn", "permute": True}, "for implicit networks"),
        ({"dataset": "wild", "encoder": "neuron_flow", "activations": False}, "no way not to see activations"),
        (
            {"dataset": "wild", "encoder": "ng_t", "activations": False, "sign": True},
            "leave it out with no-activations",
        ),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(**COMMON, **values)


def test_flat_weights_need_one_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Flat weights need networks of the same shapes"):
        run(tmp_path, "--zoo wild --encoder mlp")


def test_files_that_are_no_predictors(tmp_path: Path) -> None:
    with pytest.raises(PredictorError, match=r"python -m benchmarks\.cnn_zoo make wild"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text(json.dumps({}))
    with pytest.raises(PredictorError, match="not a predictor that this ngopt can read"):
        load(tmp_path / "text.safetensors")
    with pytest.raises(PredictorError, match=r"has no row\.json"):
        save(tmp_path, tmp_path / "a.safetensors")
    with pytest.raises(PredictorError, match=r"a\.md should end in \.safetensors"):
        save(tmp_path, tmp_path / "a.md")


def test_networks_that_the_tracer_froze(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return reverse_cumulate(self.layer(x))

    predictor = Predictor(torch.nn.Linear(1, 1), Accuracy(0.0, 1.0), False, {})
    with pytest.raises(PredictorError, match="The tracer froze a part"):
        predictor(Unknown(), torch.zeros(1, 4))
