"""Imports in a receipt: an owner who never saw the job agreed to it by what its policy exports.

The chain has one link (T5), and whoever it binds has signed each part:

1. The importer consented to the slot, under a policy of its own, named by its hash.
2. That policy imports the asset, and pins the exporter's policy by its hash.
3. The policy of that hash is the asset owner's, and exports the asset, in this use, to the
   importer. Both policies are for the manager that holds the asset.
4. The export admits the job's code, mode, recipients, devices and workers, and had not ended at
   the release; the exporter's policy names this host.

That these editions were in force, that conditions held in the exporter's own view of the evidence,
and that counted limits were kept, only the manager could see: that is its word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from svetovid.crypto import Envelope
from svetovid.errors import IntegrityError, PolicyError, RefusalError
from svetovid.evidence import HostStatement
from svetovid.policy.documents import Consent, Export, Job, JobAsset, Policy
from svetovid.policy.offload import collusion_bound
from svetovid.policy.speaking import open_owned

__all__ = ["Run", "importer_of", "stand_ins"]


@dataclass(frozen=True, slots=True)
class Run:
    """What an export is held against.

    Attributes:
        job: as agreed.
        recipients: signing keys in the job's cards.
        manager: whose receipt this is.
        statement, host: of the machine, and its digest.
        released_at: by the manager's log, Unix seconds.
    """

    job: Job
    recipients: frozenset[str]
    manager: str
    statement: HostStatement
    host: str
    released_at: int


def stand_ins(job: Job, consents: Iterable[Consent]) -> dict[str, list[Consent]]:
    """For every slot that its owner did not consent to: the consents of others, by their keys."""
    given = sorted(consents, key=lambda c: c.owner)
    own = {(c.owner, slot) for c in given for slot in c.slots}
    return {
        slot: [c for c in given if slot in c.slots]
        for slot, asset in sorted(job.assets.items())
        if (asset.owner, slot) not in own
    }


def importer_of(slot: str, given: Sequence[Consent], policies: Sequence[Envelope], run: Run) -> str:
    """The importer whose consent to ``slot`` the asset's owner let count.

    Args:
        slot: one that its owner did not consent to.
        given: others' consents to it, verified, to this job (:func:`stand_ins`).
        policies: as the manager countersigned them; what they say is verified here.
        run: see :class:`Run`.

    Raises:
        IntegrityError: ``receipt.consents`` where nobody consented, ``receipt.policy``,
            ``receipt.import``, ``receipt.export``, ``signature.*``, ``key.*``.
        PolicyError: ``grant.code``, ``grant.mode``, ``grant.recipient``, ``grant.device``,
            ``grant.collusion``, ``limit.expired``, ``policy.host`` where the export does not reach
            so far.
    """
    held = {envelope.payload_digest(): envelope for envelope in policies}
    refused: RefusalError | None = None
    for consent in given:
        try:
            _chain(slot, consent, held, run)
        except RefusalError as e:
            refused = refused or e
        else:
            return consent.owner
    raise refused or IntegrityError(
        "receipt.consents",
        expected=f"a consent to slot {slot} by {run.job.assets[slot].owner} or an importer",
        observed="none",
        next_step="do not rely on this receipt: an owner of what was used did not agree to it",
    )


def _chain(slot: str, consent: Consent, held: dict[str, Envelope], run: Run) -> None:
    asset = run.job.assets[slot]
    inner = _policy(consent.policy, consent.owner, asset, held, run)
    pins = sorted({i.policy for i in inner.imports if i.asset == asset.manifest})
    if not pins:
        raise _broken(
            "receipt.import",
            f"policy {inner.name} to import the asset of slot {slot}",
            "it does not",
        )
    refused: RefusalError | None = None
    for pin in pins:
        try:
            outer = _policy(pin, asset.owner, asset, held, run)
            _exported(slot, consent.owner, outer, run)
        except RefusalError as e:
            refused = refused or e
        else:
            return
    assert refused is not None, "there was a pin"
    raise refused


def _policy(name: str, owner: str, asset: JobAsset, held: dict[str, Envelope], run: Run) -> Policy:
    """The policy of this hash, signed by ``owner``, for the manager that holds the asset."""
    envelope = held.get(name)
    if envelope is None:
        raise _broken("receipt.policy", f"policy {name} of {owner}", "no policy of this hash")
    claimed = envelope.peek(Policy)
    if claimed.owner != owner:
        raise _broken("receipt.policy", f"a policy of {owner}", f"one of {claimed.owner}")
    if not claimed.manager == asset.manager == run.manager:
        raise _broken("receipt.policy", f"a policy for {run.manager}", f"one for {claimed.manager}")
    return open_owned(envelope, Policy)


def _exported(slot: str, importer: str, policy: Policy, run: Run) -> None:
    """One export that holds as a whole is enough; else the first one's failing clause is told."""
    asset = run.job.assets[slot]
    exports = [
        (f"policy {policy.name} exports[{i}]", e)
        for i, e in enumerate(policy.exports)
        if (e.asset, e.use, e.to) == (asset.manifest, asset.use, importer)
    ]
    if not exports:
        raise _broken(
            "receipt.export",
            f"policy {policy.name} to export slot {slot} as {asset.use} to {importer}",
            "no such export",
        )
    named = bool(policy.operators or policy.hosts)
    operator, host = run.statement.operator, run.host
    if (
        not named
        or (policy.operators and operator not in policy.operators)
        or (policy.hosts and host not in policy.hosts)
    ):
        raise _beyond(
            "policy.host", policy, f"policy {policy.name} operators", "a named host", operator
        )
    found = [_clause(where, e, policy, run) for where, e in exports]
    if all(found):
        raise next(e for e in found if e is not None)


def _clause(where: str, export: Export, policy: Policy, run: Run) -> PolicyError | None:
    """The first clause of ``export`` that the job goes beyond."""
    job, code = run.job, run.job.code.manifest
    itself = export.use == "code" and not export.code and export.asset == code
    if not itself and code not in export.code:
        return _beyond("grant.code", policy, f"{where}.code", "code of the export", code)
    if job.mode not in export.modes:
        modes = " or ".join(export.modes)
        return _beyond("grant.mode", policy, f"{where}.modes", modes, job.mode)
    if others := sorted(run.recipients - set(export.recipients)):
        granted = f"only the {len(export.recipients)} recipients of the export"
        return _beyond("grant.recipient", policy, f"{where}.recipients", granted, others[0])
    if others := sorted(set(job.devices) - set(export.devices)):
        granted = ", ".join(export.devices) or "no device"
        return _beyond("grant.device", policy, f"{where}.devices", granted, others[0])
    if job.offload is not None and (holds := collusion_bound(job.offload)) < export.collusion:
        least = f"a collusion bound of at least {export.collusion}"
        return _beyond("grant.collusion", policy, f"{where}.collusion", least, str(holds))
    ends = export.limits.expires_at
    if ends is not None and run.released_at >= ends:
        before = f"a release before {ends}"
        return _beyond("limit.expired", policy, f"{where}.limits", before, str(run.released_at))
    return None


def _broken(code: str, expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        code,
        expected=expected,
        observed=observed,
        next_step="ask the manager why it released this asset, and its owner what it exported",
    )


def _beyond(code: str, policy: Policy, where: str, expected: str, observed: str) -> PolicyError:
    return PolicyError(
        code,
        expected=expected,
        observed=observed,
        next_step="the manager released more than the owner exported: ask both",
        clause=where,
        owner=policy.owner,
    )
