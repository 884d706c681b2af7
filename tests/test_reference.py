"""`make docs` fails where a public name is missing from the reference page, or has no docstring."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import ngopt

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("griffe")
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("public_names", ROOT / "docs" / "public_names.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_found_and_has_a_docstring(hook: ModuleType) -> None:
    names = dict(hook.public_names())
    assert {f"ngopt.{name}" for name in ngopt.__all__ if name not in ("graph", "trace")} <= names.keys()
    assert {
        "ngopt.graph.trace.trace",
        "ngopt.NGOptimizer.step",
        "ngopt.graph.rule",
        "ngopt.testing.assert_equivariant",
    } <= names.keys()
    assert [name for name, documented in names.items() if not documented] == []


def test_what_is_missing_is_named(hook: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    source = '"""A package."""\n\n__all__ = ["f", "g", "C"]\n\ndef f():\n    """Documented."""\n\ndef g():\n    pass\n'
    source += '\nclass C:\n    """Documented."""\n\n    def method(self):\n        pass\n'
    (tmp_path / "small" / "__init__.py").write_text(source, encoding="utf-8")
    page = '<h2 id="small.f"><h2 id="small.g">'
    assert hook.problems(page, hook.public_names("small", tmp_path)) == [
        "small.g has no docstring",
        "small.C is public, but not on the reference page",
        "small.C.method has no docstring",
    ]


def test_the_site_shows_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in sorted(pages) if f": {page}" not in listed] == []
