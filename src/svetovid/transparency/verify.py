"""Offline verification of a receipt, by somebody who has nothing else (T13).

Rules; each that does not hold is an error of its own:

1. The receipt is about the job in the bundle, and lists its outputs (L6).
2. Every slot of the job has a consent to this job by its owner, or by an importer that the owner's
   policy lets consent in its stead (see ``imports``), and the receipt names all of them.
3. The manager signed the host's record; both pieces of evidence are of that host, answer that
   manager's challenges for this job, and are those the receipt names.
4. One per-job key stands in both pieces of evidence, and it signed the receipt.
5. The start proves the host and its keys; the end proves outputs, metrics and the whole log.
6. No reset or restart lies between them (T12).
7. The manager countersigned, and its log holds the release and the end of this very receipt.

Whether vendors and measured files are acceptable is for the reader's own anchors and reference
values to say: that makes the verdict's claims, not an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from svetovid.crypto import b64decode, b64encode, digest
from svetovid.crypto.identity import Card
from svetovid.errors import IntegrityError, Reason
from svetovid.evidence import (
    NO_SUBJECT,
    Appraisal,
    Challenge,
    HostRecord,
    LogState,
    Proven,
    ReferenceValues,
    Role,
    TeeEvidence,
    TpmEvidence,
    TrustAnchors,
    appraise,
    check_no_reset,
    verify_evidence,
)
from svetovid.evidence.ima.entries import length_of, parse_log
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.tpm.structures import parse_attest
from svetovid.offload.card import GuaranteeCard
from svetovid.policy.consents import open_consents
from svetovid.policy.documents import Consent
from svetovid.policy.offload import Offload, guarantees
from svetovid.transparency.entries import verify_proof
from svetovid.transparency.imports import Run, importer_of, stand_ins
from svetovid.transparency.receipt import (
    METRICS,
    Countersignature,
    Receipt,
    ReceiptBundle,
    final_subject,
)

__all__ = ["Verdict", "not_verified", "verify_receipt"]

_SKEW_S = 300
"""Seconds by which the reader's clock, or a replica's, may be off."""


def not_verified(reason: Reason) -> str:
    """The one line of a receipt that does not verify, or cannot be read."""
    wanted = f", expected {reason.expected}" if reason.expected else ""
    return f"NOT verified: {reason.code}: {reason.observed or 'refused'}{wanted}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a receipt proves to this reader.

    Attributes:
        affirmed: both pieces of evidence satisfy the reader's own anchors and reference values.
        simulated, measurement: as derived from the evidence (T4), the weaker of start and end.
        job, code, data, outputs, recipients: what was made from what, for whom; digests, key ids.
        consents: owner to the slots it consented to.
        imports: slot to the importer that consented in its owner's stead.
        names: what recipients' keys and the job call themselves, in the bundle; nobody vouches.
        host_name, machine_owner, operator, manager: where it ran, and who decided.
        released_at, finished_at: by the manager's log, Unix seconds.
        resumes: by the manager's count.
        start, end: the appraisals, claim by claim.
        card: of a masked job, what its workers could learn, and on what that rests (T17).
        words: the verdict in plain words; repeats ``simulated``, ``launcher`` and the card.
    """

    affirmed: bool
    simulated: bool
    measurement: str
    job: str
    code: str
    data: dict[str, str]
    outputs: dict[str, str]
    recipients: tuple[str, ...]
    consents: dict[str, tuple[str, ...]]
    imports: dict[str, str]
    names: dict[str, str]
    host_name: str
    machine_owner: str
    operator: str
    manager: str
    released_at: int
    finished_at: int
    resumes: int
    start: Appraisal
    end: Appraisal
    card: GuaranteeCard | None
    words: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The verdict in one line; it begins with ``verified`` or ``NOT verified: CODE``."""
        if self.affirmed:
            simulated = ", simulated" if self.simulated else ""
            return f"verified: what {self.job} put out (measurement: {self.measurement}{simulated})"
        return not_verified(self.reasons()[0])

    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not affirmed; empty where it is."""
        return tuple(dict.fromkeys([*self.start.reasons(), *self.end.reasons()]))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the appraisals as lists of claims."""
        out: dict[str, Any] = {"verified": self.affirmed, "verdict": self.verdict}
        out |= {f: getattr(self, f) for f in self.__dataclass_fields__}
        for name in ("start", "end"):
            out[name] = [asdict(c) for c in getattr(self, name).claims]
        out["card"] = self.card and self.card.to_dict()
        out["reasons"] = [r.to_dict() for r in self.reasons()]
        return out


def _equal(code: str, expected: object, observed: object) -> None:
    if expected != observed:
        raise IntegrityError(
            code,
            expected=expected,
            observed=observed,
            next_step="this bundle was put together from parts that do not belong together",
        )


def verify_receipt(
    bundle: ReceiptBundle,
    *,
    anchors: TrustAnchors,
    references: Sequence[ReferenceValues],
    manager: str,
    now: int,
) -> Verdict:
    """Verify a receipt bundle; the module's text lists the rules.

    Args:
        bundle: parse it with ``ReceiptBundle.parse(data, max_bytes=MAX_BUNDLE_BYTES)``.
        anchors, references: the reader's own.
        manager: key id of the manager, known to the reader from elsewhere.
        now: the time to judge certificates and reference values at, Unix seconds: usually the
            reader's clock.

    Raises:
        IntegrityError: ``receipt.*``, ``signature.*``, ``log.inclusion``, ``log.fork``.
        EvidenceError: as :func:`svetovid.evidence.verify_evidence` raises.
        InputError: for parts that cannot be read.
    """
    job, keys = bundle.job, bundle.start.keys
    name = job.digest()
    _equal("receipt.keys", keys, bundle.end.keys)
    receipt = bundle.receipt.open(Receipt, by=keys.signing)
    _equal("receipt.job", name, receipt.job)
    _equal("receipt.manager", manager, receipt.manager)
    _equal("receipt.environment", job.environment, receipt.environment)
    _equal("receipt.outputs", set(job.outputs) | {METRICS}, set(receipt.outputs) | {METRICS})
    consents = _consents(bundle, receipt)
    _equal("receipt.evidence", bundle.start.digest(), receipt.start)
    _equal("receipt.evidence", bundle.end.digest(), receipt.end)
    record = bundle.host.open(HostRecord, by=manager)
    _equal("receipt.host", record.host_id, receipt.host)
    log = b64decode(bundle.log)
    _equal("receipt.log", receipt.log, digest(log))
    start = _proven(bundle.start, record, log, manager, name, "release", NO_SUBJECT)
    subject = final_subject(receipt.outputs, receipt.log, receipt.metrics)
    end = _proven(bundle.end, record, log, manager, name, "finish", subject)
    _continuous(start, end)
    signed = bundle.countersignature.open(Countersignature, by=manager)
    _countersigned(signed, bundle, receipt, start, end, now)
    cards = [Card.open(r.card) for r in job.recipients]
    run = Run(
        job=job,
        recipients=frozenset(c.signing for c in cards),
        manager=manager,
        statement=start.statement,
        host=receipt.host,
        released_at=signed.release.entry.at,
    )
    others = stand_ins(job, consents)
    imports = {s: importer_of(s, given, signed.policies, run) for s, given in others.items()}
    views = [appraise(p, record, anchors, references, now=now) for p in (start, end)]
    facts = [v.facts() for v in views]
    simulated = any(f["simulated"] is not False for f in facts)
    measured = {str(f["measurement"]) for f in facts}
    affirmed = all(v.affirmed for v in views)
    measurement = "launcher" if "launcher" in measured else min(measured)
    card = _card(job.offload, start.statement.host, measurement, simulated)
    return Verdict(
        affirmed=affirmed,
        simulated=simulated,
        measurement=measurement,
        job=name,
        code=job.code.manifest,
        data={slot: a.manifest for slot, a in job.assets.items() if a.use != "code"},
        outputs=dict(receipt.outputs),
        recipients=tuple(sorted(run.recipients)),
        consents=_by_owner(consents),
        imports=imports,
        names={c.signing: c.name for c in cards} | {name: f"job {job.name}"},
        host_name=start.statement.host,
        machine_owner=start.statement.machine_owner,
        operator=start.statement.operator,
        manager=manager,
        released_at=signed.release.entry.at,
        finished_at=signed.finish.entry.at,
        resumes=signed.resumes,
        start=views[0],
        end=views[1],
        card=card,
        words=_words(affirmed, simulated, measured, imports) + (card.words() if card else ()),
    )


def _consents(bundle: ReceiptBundle, receipt: Receipt) -> list[Consent]:
    named = tuple(sorted({c.payload_digest() for c in bundle.consents}))
    _equal("receipt.consents", receipt.consents, named)
    good, bad = open_consents(bundle.consents)
    _equal("receipt.consents", len(bundle.consents), len(good))
    _equal("receipt.consents", 0, len(bad))
    _equal("receipt.consents", {receipt.job}, {c.job for c in good})
    return good


def _by_owner(consents: list[Consent]) -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {}
    for c in consents:
        out[c.owner] = tuple(sorted({*out.get(c.owner, ()), *c.slots}))
    return out


def _proven(
    evidence: TpmEvidence | TeeEvidence,
    record: HostRecord,
    log: bytes,
    manager: str,
    job: str,
    role: Role,
    subject: str,
) -> Proven:
    challenge = evidence.challenge.open(Challenge, by=manager)
    _equal("receipt.manager", manager, challenge.manager)
    _equal("receipt.job", job, challenge.job)
    _equal("receipt.role", role, challenge.role)
    state = None
    if isinstance(evidence, TpmEvidence):
        _equal("receipt.log", "", evidence.log)
        state, rest = _prefix(evidence, log, challenge.log_offset)
        evidence = evidence.model_copy(update={"log": b64encode(rest)})
    return verify_evidence(
        evidence,
        record,
        challenge=challenge,
        channel=evidence.channel,
        subject=subject,
        log=state,
        now=challenge.issued_at,
    )


def _prefix(evidence: TpmEvidence, log: bytes, offset: int) -> tuple[LogState | None, bytes]:
    """What the manager held when it asked for the log from ``offset`` on, and the rest of it."""
    if offset == 0:
        return None, log
    entries = parse_log(log)
    if offset > len(entries):
        _equal("receipt.log", f"at least {offset} entries", f"{len(entries)} entries")
    held, at = entries[:offset], length_of(log, offset)
    pcr = bytes(32)
    for entry in held:
        pcr = hashlib.sha256(pcr + entry.extension).digest()
    clock = parse_attest(b64decode(evidence.quote)).clock
    boot = (clock.reset_count, clock.restart_count)
    violations = sum(e.violation for e in held)
    return LogState(Entries(held), pcr, (), boot, violations, size=at), log[at:]


def _continuous(start: Proven, end: Proven) -> None:
    """One boot, and a log that the end proves to its last line."""
    if start.clock is not None and end.clock is not None:
        check_no_reset(start.clock, end.clock)
    if end.log is not None:
        # Both logs are taken from one and the same, so proving all of it proves the start's too.
        _equal("receipt.log", 0, len(end.log.pending))


def _countersigned(
    signed: Countersignature,
    bundle: ReceiptBundle,
    receipt: Receipt,
    start: Proven,
    end: Proven,
    now: int,
) -> None:
    payload = bundle.receipt.payload_digest()
    _equal("receipt.countersignature", receipt.manager, signed.manager)
    _equal("receipt.countersignature", receipt.job, signed.job)
    _equal("receipt.countersignature", payload, signed.receipt)
    for proof, kind in ((signed.release, "release"), (signed.finish, "finish")):
        verify_proof(proof, log=receipt.manager)
        _equal("receipt.decision", kind, proof.entry.kind)
        _equal("receipt.decision", receipt.job, proof.entry.body.get("job"))
    release, finish = signed.release, signed.finish
    _equal("receipt.decision", receipt.host, release.entry.body.get("host"))
    _equal("receipt.consents", [*receipt.consents], release.entry.body.get("consents"))
    _equal("receipt.decision", payload, finish.entry.body.get("document"))
    _equal("receipt.decision", release.entry.body.get("lease"), finish.entry.body.get("lease"))
    ordered = (
        release.index < finish.index
        and start.challenge.issued_at - _SKEW_S <= release.entry.at <= finish.entry.at
        and start.challenge.issued_at <= end.challenge.issued_at
        and end.challenge.issued_at - _SKEW_S <= finish.entry.at <= now + _SKEW_S
    )
    if not ordered:
        raise IntegrityError(
            "receipt.time",
            expected="challenge, release, final challenge and finish in this order, before now",
            observed=f"{start.challenge.issued_at}, {release.entry.at}, "
            f"{end.challenge.issued_at}, {finish.entry.at}, {now}",
            next_step="ask the manager why its log disagrees with its challenges",
        )


def _card(
    offload: Offload | None, host: str, measurement: str, simulated: bool
) -> GuaranteeCard | None:
    """What the workers of a masked job could learn, with this very host as the trusted side."""
    if offload is None:
        return None
    proven = f"measurement: {measurement}" + (", simulated" if simulated else "")
    return guarantees(offload, trusted=f"host {host} ({proven})")


def _words(
    affirmed: bool, simulated: bool, measured: set[str], imports: dict[str, str]
) -> tuple[str, ...]:
    out = [
        "the evidence satisfies the given anchors and reference values"
        if affirmed
        else "the evidence does NOT satisfy the given anchors and reference values"
    ]
    if simulated:
        out.append("simulated: whoever runs the host can read the device's keys; proves nothing")
    if "launcher" in measured:
        out.append("launcher: files were measured by software that was not itself measured at boot")
    if "enclave" not in measured:
        out.append("host memory is not protected from the host's administrator")
    out.append("unproven: that limits and conditions were kept is the manager's word")
    if imports:
        slots = ", ".join(imports)
        out.append(f"imported: an importer consented for the owner of {slots}, as that one exports")
    return tuple(out)
