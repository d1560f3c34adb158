"""What a policy's next edition changes.

A ``$name`` in YAML stands for what the public folder says today: the same text may grant another
code than it did. So an owner is shown what differs in what is signed, not in what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from svetovid.policy import Policy
from svetovid.stakeholder.home import Home
from svetovid.stakeholder.labels import Labels
from svetovid.stakeholder.policies import newest_edition

__all__ = ["Change", "changes", "describe_changes"]

_NUMBERING = ("sequence", "predecessor")
_SIGNING = "rotations"


@dataclass(frozen=True, slots=True)
class Change:
    """One value of a policy.

    Attributes:
        where: its place, for example ``grants[0].code[0]``.
        before, after: what it was and what it is; empty where there was none, or is none.
    """

    where: str
    before: str
    after: str


def changes(home: Home, policy: Policy) -> list[Change]:
    """Each value in which ``policy`` differs from the newest edition that ``home`` signed.

    Nothing where it signed none of this name, and where ``policy`` is that edition.
    """
    newest = newest_edition(home, policy.name, policy.owner)
    if newest is None:
        return []
    before, after = (dict(_leaves(p.to_json(), "")) for p in (newest, policy))
    return [
        Change(where, before.get(where, ""), after.get(where, ""))
        for where in sorted(before.keys() | after.keys())
        if where not in _NUMBERING
        and not where.startswith(_SIGNING)
        and before.get(where) != after.get(where)
    ]


def describe_changes(changed: Sequence[Change], labels: Labels) -> list[str]:
    """One line a change, for people, with names beside keys and digests."""
    return [
        labels.readable(f"changes {c.where}: {c.before or 'none'} -> {c.after or 'none'}")
        for c in changed
    ]


def _leaves(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every single value in a JSON value, by its place; an empty list or mapping is none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{index}]")
    else:
        yield where, str(value)
