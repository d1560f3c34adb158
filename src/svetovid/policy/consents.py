"""Who consented to which slot of a job, and why a consent counts for nothing (T5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.crypto.envelope import Envelope
from svetovid.errors import SvetovidError
from svetovid.policy.documents import Consent, JobAsset
from svetovid.policy.request import Book, Request
from svetovid.policy.speaking import check_owned, owner_keys

__all__ = ["CLOCK_SKEW_S", "Agreement", "Consents", "open_consents"]

CLOCK_SKEW_S = 120
"""How far ahead of the manager's clock an owner's may be."""
_MAX_IMPORT_BYTES = 8 << 20
"""All policies behind a job's imports: of the 12 MB of a countersignature, with its proofs."""


def open_consents(consents: Sequence[Envelope]) -> tuple[list[Consent], list[Consent]]:
    """Consents signed by whoever speaks for their owner, and those that are not."""
    good: list[Consent] = []
    bad: list[Consent] = []
    for envelope in consents:
        try:
            claimed = envelope.peek(Consent)
        except SvetovidError:
            continue
        try:
            check_owned(envelope, claimed)
        except SvetovidError:
            bad.append(claimed)
        else:
            good.append(claimed)
    return good, bad


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether one owner agreed to one slot; ``code`` says why not."""

    code: str = ""
    observed: str = "consent"

    @property
    def ok(self) -> bool:
        return not self.code


class Consents:
    """The consents of one request, opened once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.job = request.job_name
        self._good, self._bad = open_consents(request.consents)

    def agreement(self, owner: str, slot: str) -> Agreement:
        """Look for a consent of ``owner`` to ``slot``; the nearest miss explains a no.

        A policy that another manager holds cannot be compared here: there the owner's signature
        over the job is what counts, and the other manager checks the rest.
        """
        request = self._request
        policy = request.policy_names.get(owner)
        best = Agreement("consent.missing", "none")
        if any(c.owner == owner and c.job == self.job for c in self._bad):
            best = Agreement("consent.signature", "one whose signature does not hold")
        for c in self._good:
            if c.owner != owner:
                continue
            if c.job != self.job or slot not in c.slots:
                if best.code == "consent.missing":
                    scope = f"for job {c.job}, slots {', '.join(c.slots)}"
                    best = Agreement("consent.scope", scope)
            elif request.revoked & set(owner_keys(c)):
                best = Agreement("consent.revoked", "by a revoked key")
            elif c.issued_at > request.now + CLOCK_SKEW_S:
                best = Agreement("consent.time", f"issued at {c.issued_at}, now {request.now}")
            elif policy is not None and c.policy != policy:
                best = Agreement("consent.stale", f"under policy {c.policy}")
            else:
                return Agreement()
        return best

    def spoke(self, owner: str, slot: str) -> bool:
        """Whether ``owner`` consented to ``slot`` itself, whatever that is worth by now."""
        return any((c.owner, c.job) == (owner, self.job) and slot in c.slots for c in self._good)

    def importers(self, slot: str, asset: JobAsset) -> list[str]:
        """Owners, by key, that import this asset and consented to its use in the owner's stead.

        None where the asset's owner has spoken for itself, whatever its consent is worth by now.
        """
        request = self._request
        if self.spoke(asset.owner, slot):
            return []
        return [
            owner
            for owner, policy in sorted(request.policies.items())
            if owner != asset.owner
            and any(i.asset == asset.manifest for i in policy.imports)
            and self.agreement(owner, slot).ok
        ]

    def import_bytes(self) -> int:
        """What a receipt has room for of each policy that an import may rest on (T13).

        Even parts: for each owner who said nothing to a slot held here, and for one importer of
        each such slot. However many consent, nobody's policy leaves too little to another's.
        """
        request = self._request
        silent = [
            asset.owner
            for slot, asset in request.job.assets.items()
            if asset.manager == request.manager and not self.spoke(asset.owner, slot)
        ]
        return _MAX_IMPORT_BYTES // max(1, len(silent) + len({*silent}))

    def check(self, book: Book, owner: str, slot: str) -> None:
        """Note the consent clause of one slot."""
        found = self.agreement(owner, slot)
        policy = self._request.policy_names.get(owner)
        under = f" under policy {policy}" if policy is not None else ""
        book.check(
            found.ok,
            found.code,
            f"consent to slot {slot}",
            owner=owner,
            observed=found.observed,
            expected=f"a consent by {owner} to job {self.job}{under}",
            next_step="the owner must look at this job under its current policy, and consent",
        )
