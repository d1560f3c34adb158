"""What one decision works out once: conditions, each for an owner, and grants, each for an asset.

Whoever writes policies and jobs must not be able to keep a manager busy (attack V10, D2). So a
condition is evaluated once for each owner, however many slots, grants and importers bring it up,
and the work that conditions may take is bounded: for each policy, and for all owners of the job's
assets together. What is beyond is a no. An importer has a bound of its own: it can refuse for
itself, and not for the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from svetovid.errors import InputError
from svetovid.policy.conditions import Outcome, evaluate, work
from svetovid.policy.documents import Policy
from svetovid.policy.request import Book, ClauseResult, Request

__all__ = ["MAX_ALTERNATIVES", "MAX_OWNERS_WORK", "MAX_POLICY_WORK", "Once", "policy_work"]

MAX_POLICY_WORK = 4096
"""Of one policy's conditions, each counted once; in characters, see :func:`.conditions.work`."""
MAX_OWNERS_WORK = 32_768
"""Of the conditions of all owners of a job's assets together."""
MAX_ALTERNATIVES = 64
"""Grants of one asset in one use in one policy: all are tried where none holds."""


def policy_work(policy: Policy) -> int:
    """What the conditions of a policy take at the most, each counted once.

    Raises:
        InputError: as :func:`.conditions.work`.
    """
    grants = (*policy.grants, *policy.exports)
    return sum(map(work, {c.cel for g in grants for c in g.conditions}))


@dataclass(frozen=True, slots=True)
class Noted:
    """Clauses, and whether all of them hold."""

    clauses: tuple[ClauseResult, ...]
    ok: bool


class Once:
    """The results of one decision so far; made anew for each.

    Args:
        request: what the decision is made from.
        view: the job as conditions see it.
    """

    def __init__(self, request: Request, view: Mapping[str, Any]) -> None:
        self._facts = {o: a.facts() for o, a in request.appraisals.items()}
        self._view = view
        self._owners = request.job.owners
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._spent: Counter[str] = Counter()
        self._noted: dict[tuple[str | None, ...], Noted] = {}

    def noted(self, key: tuple[str | None, ...], note: Callable[[Book], None]) -> Noted:
        """The clauses that ``note`` notes, which follow from ``key`` within one decision."""
        if key not in self._noted:
            book = Book()
            note(book)
            self._noted[key] = Noted(tuple(book.clauses), all(c.ok for c in book.clauses))
        return self._noted[key]

    def condition(self, owner: str, source: str) -> Outcome:
        """What comes of a condition of ``owner``; ``limit.conditions`` beyond what it may take."""
        key = (owner, source)
        if key not in self._outcomes:
            self._outcomes[key] = self._evaluated(owner, source)
        return self._outcomes[key]

    def _evaluated(self, owner: str, source: str) -> Outcome:
        self._spent[owner] += len(source)
        try:
            if self._affordable(owner):
                self._spent[owner] += work(source) - len(source)
        except InputError as e:
            return Outcome(False, "policy.error", str(e))
        if not self._affordable(owner):
            return Outcome(False, "limit.conditions", f"{self._spent[owner]} of its owner's")
        return evaluate(source, self._facts.get(owner, {}), self._view)

    def _affordable(self, owner: str) -> bool:
        together = sum(self._spent[o] for o in self._owners)
        return self._spent[owner] <= MAX_POLICY_WORK and together <= MAX_OWNERS_WORK
