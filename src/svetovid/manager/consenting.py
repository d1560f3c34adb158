"""Consents: who agreed to which job, as far as a manager can tell (T5).

Rules:

1. Whoever speaks for an owner signs: as the document itself shows, and as this manager knows of
   every key it rests on.
2. Only an owner of an asset in the job consents, or one that the assets of all slots it consents to
   are exported to, so that no stranger's clauses enter a decision.
3. An owner whose assets another manager holds need not be known here. What it sends counts as the
   proposer's, who named it; it may change its mind a few times.
"""

from __future__ import annotations

from typing import Any, TypeVar

from svetovid.crypto import Envelope
from svetovid.errors import LimitError, PolicyError
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.state import JobState
from svetovid.policy.consents import CLOCK_SKEW_S
from svetovid.policy.documents import Consent, Job, JobAsset, Policy
from svetovid.policy.speaking import open_owned, owner_keys

__all__ = ["Consenting", "exporting", "held_already", "spoken"]

D = TypeVar("D", Policy, Consent)

_MAX_IMPORTERS = 32
_MAX_UNKNOWN = 16


def held_already(
    core: Core, envelope: Envelope, claimed: Policy | Consent, held: str | None
) -> bool:
    """Whether this very envelope is in force: it changes nothing, whichever key once signed it.

    Raises:
        IntegrityError: ``key.revoked``: an owner whose history was ended is told so.
    """
    if claimed.owner in core.state.pinned:
        core.state.signer(claimed.owner)
    return held == claimed.digest() and core.store.envelope(held) == envelope


def spoken(core: Core, envelope: Envelope, claimed: D) -> D:
    """A document by whoever speaks for its owner: as it shows itself, and as is known here.

    Raises:
        IntegrityError: ``signature.*``, ``key.*``; ``identity.unknown`` for a policy.
    """
    document = open_owned(envelope, type(claimed))
    for key in owner_keys(document):
        if key in core.state.pinned or isinstance(document, Policy):
            core.opened(envelope, type(claimed), key)
    return document


def exporting(core: Core, owner: str, asset: JobAsset) -> list[str]:
    """Digests of the policies in force of the asset's owner that export this asset in this use to
    ``owner``, and that ``owner`` pins for this asset.

    Anybody else's consent would bring anybody else's clauses into the decision: a veto for
    strangers, for those who were partners once, and for partners in something else.
    """
    pinned = {
        i.policy
        for p in _held(core, owner).values()
        for i in p.imports
        if i.asset == asset.manifest
    }
    return [
        name
        for name, policy in _held(core, asset.owner).items()
        if name in pinned
        and any(
            (e.asset, e.use, e.to) == (asset.manifest, asset.use, owner) for e in policy.exports
        )
    ]


def _held(core: Core, owner: str) -> dict[str, Policy]:
    """Policies in force, by digest, in the order of their names."""
    owned = sorted(core.state.owned.get(owner, {}).items())
    return {digest: core.store.document(digest, Policy) for _, digest in owned}


class Consenting:
    """Takes consents; decides about none."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission

    def consent(self, envelope: Envelope) -> dict[str, Any]:
        """A signed :class:`Consent`, by whoever speaks for its owner (T5).

        Raises:
            PolicyError: ``job.unknown``, ``consent.owner``, ``consent.time``.
            IntegrityError: ``signature.*``, ``key.*``.
            LimitError: ``consent.importers``, ``consent.unknown``, ``store.quota``.
        """
        core = self._core
        claimed = envelope.peek(Consent)
        known = core.state.jobs.get(claimed.job)
        if known and held_already(core, envelope, claimed, known.consents.get(claimed.owner)):
            return {"job": claimed.job}
        consent = spoken(core, envelope, claimed)
        self._not_ahead(consent)
        name = envelope.payload_digest()
        with core.store.write() as tx:
            spoken(core, envelope, claimed)
            job = tx.state.jobs.get(consent.job)
            if job is None:
                raise PolicyError(
                    "job.unknown",
                    expected="a job this manager holds",
                    observed=consent.job,
                    next_step="propose the job first",
                )
            agreed = core.store.document(consent.job, Job)
            importers = set(job.consents) - agreed.owners
            if consent.owner not in agreed.owners:
                self._may_import(consent, agreed, len(importers - {consent.owner}))
            held = job.consents.get(consent.owner)
            if held is None or not self._stays(job, core.store.document(held, Consent), consent):
                by = consent.owner
                if by not in tx.state.pinned:
                    by = self._named(job.consented[by], agreed)
                body = {
                    "job": consent.job,
                    "owner": consent.owner,
                    "policy": consent.policy,
                    "document": name,
                    "by": by,
                    "bytes": self._admission.room(tx.state, by, envelope),
                }
                parties = [*job.parties, consent.owner]
                tx.append(core.entry("consent", parties, body), envelope)
        return {"job": consent.job}

    def _not_ahead(self, consent: Consent) -> None:
        """Refuse a consent from the future: nothing newer could take its place."""
        now = self._core.now()
        if consent.issued_at > now + CLOCK_SKEW_S:
            raise PolicyError(
                "consent.time",
                expected=f"a consent issued before {now + CLOCK_SKEW_S}",
                observed=str(consent.issued_at),
                next_step="set the clock, and consent again",
                owner=consent.owner,
            )

    def _stays(self, job: JobState, held: Consent, came: Consent) -> bool:
        """Whether the held consent stays: it is the newer one, or says the same and said it before.

        Whoever once saw an older consent could else bring it back and stop what its owner agreed to
        since. Of one second the last to come counts, but none that had its turn already. One that a
        clock set back makes one of the future keeps nothing out.
        """
        if came.digest() in job.replaced:
            return True
        if held.issued_at > self._core.now() + CLOCK_SKEW_S:
            return False
        same = held == came.model_copy(update={"issued_at": held.issued_at})
        return same or came.issued_at < held.issued_at

    def _may_import(self, consent: Consent, job: Job, importers: int) -> None:
        """Raises PolicyError ``consent.owner``, LimitError ``consent.importers``."""
        for slot in consent.slots:
            asset = job.assets.get(slot)
            if asset is None or not exporting(self._core, consent.owner, asset):
                raise PolicyError(
                    "consent.owner",
                    expected=f"an owner of an asset in this job, or one that slot {slot}'s owner "
                    "exports it to",
                    observed=consent.owner,
                    next_step="consent to slots of your own, or to those you import; nobody else's "
                    "consent is needed",
                )
        if importers >= _MAX_IMPORTERS:
            raise LimitError(
                "consent.importers",
                expected=f"at most {_MAX_IMPORTERS} importers' consents to a job",
                observed=str(importers),
                next_step="the owner itself can still consent",
            )

    def _named(self, consents: int, job: Job) -> str:
        """Who answers for what an owner sends that is not known here: whoever named it in a job.

        Raises:
            LimitError: ``consent.unknown``: nobody uses up all that a proposer may keep.
        """
        if consents >= _MAX_UNKNOWN:
            raise LimitError(
                "consent.unknown",
                expected=f"at most {_MAX_UNKNOWN} consents to a job by an owner not known here",
                observed=str(consents),
                next_step="register with this manager too",
            )
        return job.proposer
