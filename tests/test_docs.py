"""Every Python snippet in README.md and docs/ runs, in order, in one namespace per page; every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def snippets(text: str) -> list[tuple[int, str]]:
    """Python blocks of a page, each with the number of its first line."""
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in SNIPPET.finditer(text)]


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MARKS = {"sharded": pytest.mark.fsdp}  # what the snippets of a page need


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=MARKS.get(page.stem, ()), id=page_id(page)) for page in PAGES]
)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # snippets may write files
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": page.stem}
    try:
        for line, code in snippets(page.read_text(encoding="utf-8")):
            # Empty lines first, so that a traceback names the line of the page.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
    finally:
        plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_readme_is_short() -> None:
    """At most 700 words as `wc -w` counts them, tables included; and the commands of the main job are on top."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    assert len(re.findall(r"^\| ", text, re.MULTILINE)) <= 6, "one table, of at most five rows"
    first_screen = "\n".join(text.splitlines()[:40])
    assert "make demo" in first_screen and "make test" in first_screen and "ngopt.NGOptimizer(" in first_screen


def test_readme_shows_the_drop_in_line() -> None:
    """A guard for the tests above: the README has snippets, and they are found."""
    code = "\n".join(code for _, code in snippets((ROOT / "README.md").read_text(encoding="utf-8")))
    assert "ngopt.NGOptimizer(model" in code


def test_a_snippet_that_fails_is_reported_with_its_line() -> None:
    [(line, code)] = snippets("text\n\n```python\nraise RuntimeError\n```\n")
    assert (line, code) == (4, "raise RuntimeError\n")
