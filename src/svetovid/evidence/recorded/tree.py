"""The tree of claims that an appraisal of recorded evidence is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from svetovid.errors import Reason, SvetovidError
from svetovid.evidence.claims import Claim
from svetovid.evidence.ima import LogState
from svetovid.evidence.tpm import ClockInfo

__all__ = ["Node", "Seen", "Verdict", "absent", "over", "refused", "told", "unproven"]


@dataclass(frozen=True, slots=True)
class Node:
    """A claim and those that it rests on.

    Attributes:
        name: for example ``ima.replay``.
        ok: None where nothing was given and nobody asked for it.
        observed, expected: what was seen and what would be good.
        source: where the expectation comes from.
        code, next_step: why it is not ok, and what would change it.
    """

    name: str
    ok: bool | None
    observed: str = ""
    expected: str = ""
    source: str = ""
    code: str = ""
    next_step: str = ""
    claims: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This claim, then those below it."""
        yield self
        for claim in self.claims:
            yield from claim.walk()

    def to_json(self) -> dict[str, Any]:
        """As a JSON value, with what lies below it."""
        parts = ("name", "ok", "observed", "expected", "source", "code", "next_step")
        found: dict[str, Any] = {part: getattr(self, part) for part in parts}
        return {**found, "claims": [claim.to_json() for claim in self.claims]}


def told(claim: Claim, name: str = "") -> Node:
    """A claim of an owner's appraisal, here."""
    return Node(
        name or claim.name,
        claim.ok,
        claim.observed or str(claim.value),
        *(claim.expected, claim.source, claim.code, claim.next_step),
    )


def refused(name: str, why: SvetovidError | Reason, source: str) -> Node:
    r = why.reason if isinstance(why, SvetovidError) else why
    return Node(name, False, r.observed, r.expected, source, r.code, r.next_step)


def absent(name: str, expected: str, source: str) -> Node:
    """Not given, and nothing asks for it."""
    return Node(name, None, "not given", expected, source)


def unproven(name: str, below: str) -> Node:
    """What cannot be judged, since what it rests on does not hold."""
    return Node(
        name,
        False,
        f"not looked at: {below} does not hold",
        f"{below} that holds",
        "the recording",
        "recorded.unproven",
        f"see {below}",
    )


def over(node: Node, claims: Sequence[Node]) -> Node:
    """``node`` above ``claims``: not ok where one of them is not."""
    bad = next((c for c in claims if c.ok is False), None)
    if bad is None or node.ok is False:
        return replace(node, claims=tuple(claims))
    return replace(node, ok=False, code=bad.code, next_step=bad.next_step, claims=tuple(claims))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a later recording of the same host is held against."""

    log: LogState
    clock: ClockInfo


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reader may make of recorded evidence.

    Attributes:
        claims: the tree. Every one that is not ok counts, however deep.
        measurement, simulated: words of T4.
        rests_on: what the verdict takes for granted, because no recording can show it.
        seen: log and clock, where quote and log hold.
    """

    claims: tuple[Node, ...]
    measurement: str
    simulated: bool
    rests_on: tuple[str, ...]
    seen: Seen | None = None

    @property
    def affirmed(self) -> bool:
        """Whether no claim failed, and there is one."""
        return bool(self.claims) and not any(c.ok is False for c in self._all())

    def _all(self) -> Iterable[Node]:
        return (node for claim in self.claims for node in claim.walk())

    def reasons(self) -> tuple[str, ...]:
        """Codes of what is not ok, each once, in the order of the tree."""
        return tuple(dict.fromkeys(c.code for c in self._all() if c.ok is False))

    def to_json(self) -> dict[str, Any]:
        """As a JSON value, with the whole tree of claims."""
        return {
            "verdict": "affirmed" if self.affirmed else "refused",
            "reasons": list(self.reasons()),
            "measurement": self.measurement,
            "simulated": self.simulated,
            "rests_on": list(self.rests_on),
            "claims": [c.to_json() for c in self.claims],
        }
