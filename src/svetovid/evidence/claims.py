"""One statement of an appraisal, with what was seen, what was wanted, and who wanted it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Claim", "Fact"]

Fact = str | int | bool


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about the host.

    Attributes:
        name: for example ``log.files``.
        ok: whether it is as the owner wants it.
        value: what was derived.
        observed, expected: what was seen and what would be good.
        source: where the expectation comes from.
        code: reason code where not ok, else empty.
        next_step: what would change it.
    """

    name: str
    ok: bool
    value: Fact
    observed: str = ""
    expected: str = ""
    source: str = ""
    code: str = ""
    next_step: str = ""
