"""Warnings that are given once."""

from __future__ import annotations

from ngopt.warn import warn


class Notices:
    """Each topic is warned of once.

    Attributes:
        topics: What was warned of.
    """

    def __init__(self) -> None:
        self.topics: set[str] = set()

    def once(self, topic: str, message: str) -> None:
        """Warn, unless there was a warning of this topic."""
        if topic not in self.topics:
            self.topics.add(topic)
            warn(message)
