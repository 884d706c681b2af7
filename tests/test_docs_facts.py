"""What the pages state about the code is looked up in the code: defaults, constants, counts, weights, refusals."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import ngopt
from ngopt.graph.rules import RULES
from ngopt.optim.rule.config import DEFAULT_LR, UpdateConfig
from ngopt.optim.saving.checkpoint import DEFAULT_PRETRAINED, SHIPPED, SUFFIX, shipped
from tests.zoo import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIG = UpdateConfig()
FACTS: list[
    tuple[str, str, Callable[[], object]]
] = [  # page, what it says with the value in brackets, where that is from
    ("optimizer.md", r"rule's own step size: (\d+), the default", lambda: int(DEFAULT_LR)),
    ("optimizer.md", r"u = -lr \* ([\d.]+) \* schedule", lambda: CONFIG.step_size),
    ("optimizer.md", r"([\d.]+) for vectors, and the initial size", lambda: CONFIG.vector_scale),
    ("architecture.md", r"every one of the first (\d+) steps", lambda: CONFIG.dense_steps),
    ("zoo.md", r"in the (\d+) models that the tests sweep", lambda: len(MODELS)),
]


def read(page: str) -> str:
    return " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page, words, value", FACTS, ids=[words for _, words, _ in FACTS])
def test_numbers(page: str, words: str, value: Callable[[], object]) -> None:
    found = re.search(words, read(page))
    assert found is not None, f"docs/{page} does not say {words!r} any more: change FACTS"
    assert found[1] == str(value())


def test_every_model_of_the_zoo_has_a_row() -> None:
    rows = re.findall(r"^\| (\w+) \| [\d,]+ \|", (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(MODELS)


def test_about_how_many_rules_there_are() -> None:
    found = re.search(r"About (\d+) rule functions", read("architecture.md"))
    assert found is not None
    assert abs(int(found[1]) - len(set(RULES.values()))) <= 0.25 * int(found[1])


def test_the_learning_rate_is_the_default() -> None:
    assert inspect.signature(ngopt.NGOptimizer).parameters["lr"].default == DEFAULT_LR


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_named_weights_are_shipped(page: Path) -> None:
    names = set(re.findall(r"[`\"](ngopt-base(?:-[-\w]+)?)[`\"]", page.read_text(encoding="utf-8")))
    assert names <= {DEFAULT_PRETRAINED, *shipped()}


def test_what_the_default_weights_are() -> None:
    """As long as nothing learned is shipped, the page says so; afterwards it must not."""
    learned = (SHIPPED / f"{DEFAULT_PRETRAINED}{SUFFIX}").is_file()
    assert ("is at present `ngopt-base-untrained`" in read("optimizer.md")) == (not learned)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("`capturable=True`", lambda: ngopt.NGOptimizer(nn.Linear(2, 2), capturable=True)),
    ("`differentiable=True`", lambda: ngopt.NGOptimizer(nn.Linear(2, 2), differentiable=True)),
    ("complex or sparse parameters", lambda: ngopt.NGOptimizer(nn.Linear(2, 2, dtype=torch.complex64))),
]


@pytest.mark.parametrize("words, ask", REFUSED, ids=[words for words, _ in REFUSED])
def test_what_is_refused(words: str, ask: Callable[[], object]) -> None:
    assert f"| {words}" in read("optimizer.md")
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        ask()


def test_every_word_of_the_glossary_is_used() -> None:
    """And there are at most 25: more is another language."""
    words = re.findall(
        r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert 10 <= len(words) <= 25 and len(set(words)) == len(words)
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "ngopt").rglob("*.py"))).lower()
    code += "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "meta_train").rglob("*.py"))).lower()
    assert [word for word in words if word.lower() not in code] == []


FOREIGN = {"build", "pip", "pytest", "venv"}  # modules of others that pages name


def gone(text: str) -> list[str]:
    """Commands, files and names of this repository that a text mentions and that are not there."""
    missing = [name for name in re.findall(r"python -m ([a-z_][\w.]*\w)", text) if not _is_module(name)]
    paths = re.findall(r"`((?:ngopt|meta_train|benchmarks|tests|docs|examples)/[\w./-]+)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    names = re.findall(r"`((?:ngopt|meta_train|benchmarks)(?:\.\w+)+)`", text)
    return sorted({*missing, *(name for name in names if not _is_there(name))})


def _is_module(name: str) -> bool:
    try:
        return name in FOREIGN or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_what_pages_mention_is_there(page: Path) -> None:
    assert gone(page.read_text(encoding="utf-8")) == []


def test_what_is_gone_is_noticed() -> None:
    text = "`python -m benchmarks.nothing`, `ngopt/optim/plan.py`, `ngopt.optim.plan.Side`, "
    text += "`ngopt.trace`, `python -m ngopt.graph`, `ngopt/optim/update.py`"
    assert gone(text) == ["benchmarks.nothing", "ngopt.optim.plan.Side", "ngopt/optim/plan.py"]
