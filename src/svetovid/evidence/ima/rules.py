"""Path rules against measured paths: anchored, and in time linear in the path.

A glob's literal pieces are searched from left to right, each once: nothing is ever tried twice, so
no pattern and no path can make it slow.
"""

from __future__ import annotations

from collections.abc import Sequence

from svetovid.evidence.references import PathRule

__all__ = ["Rules", "covers"]


def _fits(pieces: Sequence[str], text: str) -> bool:
    """Whether ``text`` is ``pieces`` with anything in between; the leftmost place of each piece
    leaves the most room for the rest."""
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def covers(rule: PathRule, path: str) -> bool:
    """Whether ``rule`` speaks of ``path``."""
    if rule.kind == "exact":
        return path == rule.path
    if rule.kind == "subtree":
        return path.startswith(rule.path + "/")
    wanted, parts = rule.path.split("/"), path.split("/")
    return len(wanted) == len(parts) and all(
        _fits(want.split("*"), part) for want, part in zip(wanted, parts, strict=True)
    )


class Rules:
    """The path rules of a set of reference values, in their order."""

    def __init__(self, rules: Sequence[PathRule]) -> None:
        self._rules = rules
        self._begin = tuple(rule.path.partition("*")[0] for rule in rules)

    def first(self, path: str) -> int | None:
        """The number of the first rule that covers ``path``."""
        if not path.startswith(self._begin):
            return None
        for number, begin in enumerate(self._begin):
            if path.startswith(begin) and covers(self._rules[number], path):
                return number
        return None
