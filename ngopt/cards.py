"""Cards of trained files as pages for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def card_page(name: str, card: Mapping[str, Any], introduction: str = "") -> str:
    """Markdown of a card: a line for each entry.

    Args:
        name: Of the file that the card belongs to.
        card: JSON values.
        introduction: A sentence before them.
    """
    lines = [f"# {name}", "", *([introduction, ""] if introduction else [])]
    for key, value in card.items():
        lines.append(f"- **{key.replace('_', ' ')}**: {value if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(lines) + "\n"
