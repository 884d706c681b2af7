"""A hook of the documentation's build: every public name is on the reference page, with a docstring, or it fails.

Public are the names in ``__all__`` of the package and of the modules right in it, and the methods of its classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]


def public_names(package: str = "ngopt", folder: Path = ROOT) -> Iterator[tuple[str, bool]]:
    """All public names, as ``package.module.name``, and whether each has a docstring."""
    loader = griffe.GriffeLoader(search_paths=[folder], allow_inspection=False)
    root: Any = loader.load(package)
    loader.resolve_aliases()
    for module in (root, *root.modules.values()):
        for name in module.exports or ():
            found, path = module[str(name)], f"{module.path}.{name}"
            if found.is_module and name in found.members:  # a function that has its module's name, as `trace`
                found = found[str(name)]
                path = found.canonical_path
            if not found.is_module:
                yield path, found.has_docstring
            if found.is_class:
                for method in found.members.values():
                    if method.is_function and not method.name.startswith("_"):
                        yield f"{module.path}.{name}.{method.name}", method.has_docstring


def problems(page: str, names: Iterator[tuple[str, bool]]) -> list[str]:
    """What is wrong with the reference page."""
    wrong = []
    for name, documented in names:
        if not documented:
            wrong.append(f"{name} has no docstring")
        elif f'id="{name}"' not in page:
            wrong.append(f"{name} is public, but not on the reference page")
    return wrong


def on_post_build(config: Any) -> None:
    """See https://www.mkdocs.org/user-guide/configuration/#hooks."""
    page = Path(config.site_dir, "reference", "index.html").read_text(encoding="utf-8")
    if wrong := problems(page, public_names()):
        raise PluginError("docs/reference.md:\n  " + "\n  ".join(wrong))
