"""Dependencies point one way: graph -> encoder -> optim, nothing in ngopt knows who uses it, and no circles."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What knows nothing of networks.
BASE = {f"ngopt.{name}" for name in ("cards", "command", "errors", "extras", "files", "tensor_files", "warn")}
MAY_IMPORT = {  # package: what it may import of this repository, besides itself
    "ngopt/graph": BASE,
    "ngopt/encoder": BASE | {"ngopt.graph"},
    "ngopt/optim": BASE | {"ngopt.graph", "ngopt.encoder", "ngopt.pretrained"},
    "ngopt/optim/rule": BASE | {"ngopt.graph", "ngopt.encoder"},
    "ngopt/optim/fast": BASE | {"ngopt.graph", "ngopt.encoder", "ngopt.optim.rule"},
    "ngopt/optim/attach": BASE | {"ngopt.graph", "ngopt.optim.rule", "ngopt.optim.fast"},
    "ngopt/optim/saving": BASE | {"ngopt.graph", "ngopt.optim.rule", "ngopt.optim.attach"},
    "ngopt/optim/sharded": BASE
    | {"ngopt.graph", "ngopt.optim.finite"}
    | {f"ngopt.optim.{room}" for room in ("rule", "fast", "attach", "saving")},
    "ngopt": {"ngopt"},
    "meta_train": {"ngopt"},
    "benchmarks": {"ngopt", "meta_train"},
}
OURS = ("ngopt", "meta_train", "benchmarks", "tests")


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of all modules that a source text imports, wherever in the text."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names |= {base} if base != "ngopt" else {f"ngopt.{alias.name}" for alias in node.names}
    return names


def wrong_imports(folder: str) -> list[str]:
    """Imports in a folder that point the wrong way, as ``file: module``."""
    allowed = {folder.replace("/", "."), *MAY_IMPORT[folder]}
    wrong = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        for name in sorted(imported_modules(path.read_text(encoding="utf-8"), package)):
            if name.split(".")[0] in OURS and not any(name == a or name.startswith(a + ".") for a in allowed):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    return wrong


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert wrong_imports(folder) == []


@pytest.mark.parametrize(
    "source, expected",
    [
        ("from ngopt import optim", {"ngopt.optim"}),
        ("def f():\n    import ngopt.optim.update", {"ngopt.optim.update"}),
        ("from ..encoder import x", {"ngopt.encoder"}),
        ("from . import rules", {"ngopt.graph"}),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: set[str]) -> None:
    assert imported_modules(source, "ngopt.graph") == expected


def modules(*folders: str) -> dict[str, Path]:
    """Files of these folders by the name that they are imported by."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def needs(source: str, own: str, known: frozenset[str]) -> set[str]:
    """Which of the known modules a source text imports: at its top, inside functions, or for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{own}: write absolute imports"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & known or {str(node.module)}
    return found & known - {own}


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circles_between_files() -> None:
    files = modules("ngopt", "meta_train", "benchmarks")
    known = frozenset(files)
    assert {"ngopt.graph.neural_graph", "meta_train.trainer", "benchmarks.demo"} <= known
    assert circle({name: needs(path.read_text(encoding="utf-8"), name, known) for name, path in files.items()}) == []


@pytest.mark.parametrize(
    "back",
    [
        "from p import a",
        "import p.a",
        "from p.a import name",
        "def f():\n    from p.a import name",
        "if TYPE_CHECKING:\n    from p.a import name",
    ],
)
def test_every_circle_is_seen(back: str) -> None:
    sources = {"p": "", "p.a": "from p import b", "p.b": "from p.c import x", "p.c": back}
    known = frozenset(sources)
    assert set(circle({name: needs(source, name, known) for name, source in sources.items()})) == {"p.a", "p.b", "p.c"}
    assert circle({name: needs(source, name, known) for name, source in sources.items() if name != "p.c"}) == []
