"""Tables in documents: what stands between two markers is what a command printed, never typed.

<!-- table: NAME -->
<!-- end of table: NAME -->
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.results import write_text

PAGES = (Path("README.md"), Path("docs/encoders.md"), Path("docs/optimizer.md"), Path("docs/benchmarks.md"))


def fill_pages(name: str, table: str, pages: Iterable[Path] = PAGES) -> list[Path]:
    """Put a table into all pages that have a place for it; returns those that changed."""
    changed = []
    for path in pages:
        if path.is_file() and (text := fill(old := path.read_text(encoding="utf-8"), name, table)) != old:
            write_text(path, text)
            changed.append(path)
    return changed


def fill(page: str, name: str, text: str) -> str:
    """Replace what stands between a table's markers; a page without them stays as it is.

    Raises:
        ValueError: One marker without the other, twice, or in the wrong order.
    """
    begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
    if begin not in page and end not in page:
        return page
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"The page must hold the lines {begin!r} and {end!r}, once and in this order, or neither.")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
