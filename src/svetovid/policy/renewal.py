"""After the release: a lease is renewed by better-or-equal evidence only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from svetovid.evidence.documents import Role
from svetovid.policy.decide import everything, not_finished, purpose
from svetovid.policy.request import Book, Decision, Request

__all__ = ["decide_renewal"]

_MEASUREMENT = {"launcher": 1, "kernel": 2, "enclave": 3}
_SAME = ("host", "kind", "operator", "anchor")
_BOOT = ("reset_count", "restart_count")


def decide_renewal(
    request: Request, *, released_on: Mapping[str, Mapping[str, Any]], role: Role = "renew"
) -> Decision:
    """Decide whether a live job's lease goes on (T12, attack K4).

    Everything a release needs must still hold, except that no run is counted; and for no owner may
    the host look weaker than when the keys were released.

    Args:
        request: as for a release, with role ``renew``; or ``attest``, for what a host proves of
            itself at an interval: nothing is renewed by it, but a lease may be lost.
        role: which of the two the manager asked for.
        released_on: by owner, the facts its appraisal gave at the release.

    Further codes: ``job.not_live``, ``renew.weaker``, ``renew.reset``.
    """
    book = Book()
    purpose(book, request, role)
    _live(book, request)
    not_finished(book, request)
    stakes = everything(book, request, counting=False)
    for owner in sorted(request.appraisals):
        _no_weaker(book, owner, request.appraisals[owner].facts(), released_on.get(owner, {}))
    return book.decision(stakes)


def _live(book: Book, request: Request) -> None:
    book.check(
        request.history.live,
        "job.not_live",
        "a lease that has not ended",
        observed="live" if request.history.live else "no live lease",
        expected="a live lease",
        next_step="ask for a release, which resumes the job from its last checkpoint",
    )


def _no_weaker(book: Book, owner: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    worse = [f for f in _SAME if before.get(f) is None or now.get(f) != before.get(f)]
    if _MEASUREMENT.get(str(now.get("measurement")), 0) < _MEASUREMENT.get(
        str(before.get("measurement")), 4
    ):
        worse.append("measurement")
    if now.get("simulated") is not False and before.get("simulated") is not True:
        worse.append("simulated")
    if not _at_least(now.get("log_entries"), before.get("log_entries")):
        worse.append("log_entries")
    book.check(
        not worse,
        "renew.weaker",
        "evidence at the release",
        owner=owner,
        observed=", ".join(f"{f}: {now.get(f)}" for f in worse) or "no weaker",
        expected=", ".join(f"{f}: {before.get(f)}" for f in worse) or "no weaker",
        next_step="the job ends; start it again on a host that proves as much as before",
    )
    reset = [f for f in _BOOT if before.get(f) is None or now.get(f) != before.get(f)]
    book.check(
        not reset,
        "renew.reset",
        "one boot of the host",
        owner=owner,
        observed=", ".join(f"{f}: {now.get(f)}" for f in reset) or "same boot",
        expected=", ".join(f"{f}: {before.get(f)}" for f in reset) or "same boot",
        next_step="the TPM was reset or restarted; resume the job from its last checkpoint",
    )


def _at_least(now: object, before: object) -> bool:
    return isinstance(now, int) and isinstance(before, int) and now >= before
