"""The bars that were set before anything was run, each checked against the stored rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean

from benchmarks.common.rivals import RIVALS
from benchmarks.learning_to_optimize.optimizers import (
    BASE,
    NGOPT,
    NO_GRAPH,
    NO_MODEL,
    RAW_SHAPES,
    UNTRAINED,
    own_name,
    row_name,
)
from benchmarks.learning_to_optimize.suite import Overall, TaskRuns, overall, overall_time
from benchmarks.learning_to_optimize.tasks import TASKS

Suite = Sequence[TaskRuns]
SPEED_UPS = {UNTRAINED: 2.6, NGOPT: 2.8}  # interquartile mean on the held-out suite
BEST = "SOAP"  # the rival to beat
WORST = 0.95
LSTM = 1.5
ACCURACIES = {"fm16": 89.6, "cifar-16-32-32": 71.0}  # percent
LONG, LONG_TASKS = 5000, 3
LARGE = 10_000  # parameters
WITHOUT_MODEL = 0.9  # share of the interquartile mean with a graph
SAFE_RATES, SAFE_SEEDS = (0.5, 1.0, 2.0), 10
NOT_RUN = "not run"


def bars(suites: dict[int, Suite], steps: int) -> list[tuple[str, str]]:
    """Every bar in words, and what became of it.

    Args:
        suites: All stored runs by number of steps.
        steps: The number that the bars are about, except those that name another.
    """
    short, ours = suites.get(steps, []), shipped_rule(suites)
    held_out, unseen = (_group(short, group) for group in ("held-out", "unseen"))
    by_name = {runs.name: runs for runs in short}
    found = [
        (f"{name}: speed-up over tuned {BASE} on the held-out suite at least {bar}", _speed(held_out, name, bar))
        for name, bar in SPEED_UPS.items()
    ]
    found += [
        (f"{name}: above tuned {BEST} on the {words} suite, intervals over seeds apart", _apart(some, name, BEST))
        for name in (NGOPT, UNTRAINED)
        for words, some in (("held-out", held_out), ("unseen", unseen))
    ]
    found += [
        (f"{name}: speed-up on its worst task of the held-out suite at least {WORST}", _worst(held_out, name))
        for name in (NGOPT, UNTRAINED)
    ]
    found.append((f"{ours}: speed-up on lstm at least {LSTM}", _on_task(by_name.get("lstm"), ours, LSTM)))
    found += [
        (f"{ours}: test accuracy on {task} at least {bar} %", _accuracy(by_name.get(task), ours, bar))
        for task, bar in ACCURACIES.items()
    ]
    found += [
        (f"{task}: rows of {ours} and of tuned rivals", _rows(by_name.get(task), ours))
        for task in ("cifar-32-64-64", "mlp20")
    ]
    found.append(
        (
            f"{ours}: at {LONG:,} steps ahead of {BASE} and {BEST}, tuned at {LONG:,}, on {LONG_TASKS} or more tasks",
            _long(suites.get(LONG, []), ours),
        )
    )
    large = [runs for runs in (*held_out, *unseen) if runs.settings["parameters"] > LARGE]
    for words, some in ((f"tasks of more than {LARGE:,} parameters", large), ("the held-out suite", held_out)):
        found.append((f"{ours}: time to tuned {BASE}'s final loss over {BASE}'s, {words}, below 1", _time(some, ours)))
    found += [
        (
            f"{without}: at least {WITHOUT_MODEL:.0%} of the speed-up of {whole}, held-out suite",
            _share(held_out, without, whole),
        )
        for without, whole in ((NO_MODEL, NGOPT), (RAW_SHAPES, UNTRAINED))
    ]
    for better, worse, words in (
        (NGOPT, UNTRAINED, "trained beats untrained"),
        (NGOPT, NO_GRAPH, "trained with the graph beats trained without it"),
        (UNTRAINED, RAW_SHAPES, "the rule in the graph's views beats the same rule in the tensors' own shapes"),
    ):
        found.append((f"{words}, held-out suite", _beats(held_out, better, worse)))
    found.append((f"{ours}: no divergence in any run, whatever its length and `lr`", _divergence(suites, ours)))
    rates = ", ".join(f"{rate:g}" for rate in SAFE_RATES)
    words = f"{ours}: no divergence with {SAFE_SEEDS} seeds of every held-out task at each `lr` of {rates}"
    found.append((words, _safe(held_out, ours)))
    return found


def shipped_rule(suites: dict[int, Suite]) -> str:
    """The name of the rows of what a user gets: the trained rule, or the untrained one where none has been shipped."""
    trained = any(NGOPT in runs.names for some in suites.values() for runs in some)
    return NGOPT if trained else UNTRAINED


def _group(suite: Suite, group: str) -> list[TaskRuns]:
    return [runs for runs in suite if runs.settings["group"] == group]


def _verdict(met: bool, number: str) -> str:
    return f"met ({number})" if met else f"missed ({number})"


def _words(found: Overall) -> str:
    low, high = found.seeds
    return f"{found.value:.2f} [{low:.2f}, {high:.2f}]"


def _speed(suite: Suite, name: str, bar: float) -> str:
    return _whole(suite, "held-out", [name], lambda found: (found[0].value >= bar, _words(found[0])))


def _apart(suite: Suite, name: str, other: str) -> str:
    group = suite[0].settings["group"] if suite else "unseen"
    return _whole(
        suite,
        group,
        [name, other],
        lambda found: (found[0].seeds[0] > found[1].seeds[1], f"{_words(found[0])} against {_words(found[1])}"),
    )


def _worst(suite: Suite, name: str) -> str:
    def judge(found: list[Overall]) -> tuple[bool, str]:
        task, value = min(found[0].by_task.items(), key=lambda item: item[1])
        return value >= WORST, f"{task}: {value:.2f}"

    return _whole(suite, "held-out", [name], judge)


def _whole(suite: Suite, group: str, names: Sequence[str], judge: Callable[[list[Overall]], tuple[bool, str]]) -> str:
    """The verdict on tasks that all of these optimizers ran on; none while tasks of the group are missing."""
    both = [runs for runs in suite if all(runs.speed_ups(name) for name in names)]
    found = [some for name in names if (some := overall(both, name))]
    if len(found) < len(names):
        return NOT_RUN
    met, number = judge(found)
    missing = [t.name for t in TASKS.values() if t.group == group and t.name not in {runs.name for runs in both}]
    return f"{NOT_RUN} on {', '.join(missing)}; {number} on the others" if missing else _verdict(met, number)


def _on_task(runs: TaskRuns | None, ours: str, bar: float) -> str:
    speeds = runs.speed_ups(ours) if runs else []
    return _verdict(mean(speeds) >= bar, f"{mean(speeds):.2f}") if speeds else NOT_RUN


def _accuracy(runs: TaskRuns | None, ours: str, bar: float) -> str:
    rows = runs.of(ours) if runs else []
    if not rows:
        return NOT_RUN
    value = mean(row["metric"] if row["metric"] is not None else 0.0 for row in rows)
    return _verdict(value >= bar, f"{value:.2f} %")


def _rows(runs: TaskRuns | None, ours: str) -> str:
    rivals = [name for name in RIVALS if runs and runs.of(name)]
    if runs is None or not runs.of(ours):
        return NOT_RUN + (f"; rivals: {', '.join(rivals)}" if rivals else "")
    return _verdict(bool(rivals), ", ".join(rivals) or "no rivals")


def _long(suite: Suite, name: str) -> str:
    """Tasks on which both were tuned at so many steps."""

    def tuned_here(runs: TaskRuns, name: str) -> bool:
        rows = runs.of(name)
        return bool(rows) and all(row["tuned_on"] == f"{runs.name} at {runs.steps} steps" for row in rows)

    tuned = [runs for runs in suite if all(tuned_here(runs, name) for name in (BASE, BEST))]
    both = [runs for runs in tuned if runs.of(name)]
    if not both:
        return NOT_RUN + (f"; rivals tuned on {', '.join(runs.name for runs in tuned)}" if tuned else "")
    ours, soap = overall(both, name), overall(both, BEST)
    assert ours is not None and soap is not None
    ahead = ours.value > 1 and ours.value > soap.value
    number = f"{_words(ours)} against {BEST}'s {_words(soap)} on {', '.join(runs.name for runs in both)}"
    return _verdict(ahead and len(both) >= LONG_TASKS, number)


def _time(suite: Suite, name: str) -> str:
    found = overall_time(suite, name)
    if found is None:
        return NOT_RUN
    some = f", {len(found.by_task)} of {len(suite)} tasks" if len(found.by_task) < len(suite) else ""
    return _verdict(found.value < 1, f"{_words(found)}, processor time{some}")


def _share(suite: Suite, name: str, whole: str) -> str:
    both = [runs for runs in suite if runs.speed_ups(name) and runs.speed_ups(whole)]
    ours, theirs = overall(both, name), overall(both, whole)
    if ours is None or theirs is None:
        return NOT_RUN
    number = f"{ours.value:.2f} of {theirs.value:.2f}"
    return _verdict(ours.value >= WITHOUT_MODEL * theirs.value, number)


def _divergence(suites: dict[int, Suite], name: str) -> str:
    rows = [(steps, r, row) for steps, some in suites.items() for r in some for row in r.rows]
    ours = [(steps, r, row) for steps, r, row in rows if own_name(row["optimizer"]) == name]
    if not ours:
        return NOT_RUN
    bad = sorted({f"{r.name} at {steps} steps" for steps, r, row in ours if row["diverged"]})
    longest = max(row["steps"] for _, _, row in ours)
    return _verdict(not bad, ", ".join(bad) if bad else f"{len(ours)} runs of up to {longest:,} steps")


def _safe(suite: Suite, name: str) -> str:
    labels = {rate: row_name(name, lr=rate) for rate in SAFE_RATES}
    lacking = [f"{rate:g}" for rate, label in labels.items() if any(len(runs.of(label)) < SAFE_SEEDS for runs in suite)]
    rows = [(runs.name, label, row) for runs in suite for label in labels.values() for row in runs.of(label)]
    bad = sorted({f"{task} ({label})" for task, label, row in rows if row["diverged"]})
    if not suite or (lacking and not bad):
        return NOT_RUN + (f" in full at `lr` {', '.join(lacking)}; none in {len(rows)} runs" if rows else "")
    return _verdict(not bad, ", ".join(bad) if bad else f"{len(rows)} runs")


def _beats(suite: Suite, better: str, worse: str) -> str:
    both = [runs for runs in suite if runs.of(better) and runs.of(worse)]
    first, second = overall(both, better), overall(both, worse)
    if first is None or second is None:
        return NOT_RUN
    wins = sum(runs.end(better) < runs.end(worse) for runs in both)
    ended = sum(math.isfinite(runs.end(better)) or math.isfinite(runs.end(worse)) for runs in both)
    numbers = f"speed-up {first.value:.2f} against {second.value:.2f}; lower final loss on {wins} of {ended} tasks"
    return _verdict(first.value > second.value, numbers)
