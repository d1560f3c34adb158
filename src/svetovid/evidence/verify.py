"""Evidence in, what it proves out: whoever the owner is, these rules are the same.

Rules, in this order, cheap before dear:

1. The evidence is of the kind that the host enrolled with, and names that host.
2. Its challenge is the manager's own, signed by it, for this host, and within its time.
3. It speaks on the channel and of the subject that the manager saw (I7, T13).
4. The operator's statement in the host's record holds, and is about this device (T3).
5. The quote or report is signed by the enrolled device and carries exactly the binding of all the
   above with the job's keys (T6). For a TPM, the AK is a restricted signing key.
6. The PCR values are those quoted, and the measurement log replays to PCR 10.
7. The boot log, where one came along, replays to PCR 0 to 9 and 11 to 14. One that does not is no
   refusal: the reason travels on, and no owner will hear of a known kernel.

The calling loop::

    proven = verify_evidence(evidence, record, challenge=mine, channel=tls, subject=subject,
                             log=known.get(host), now=now)
    known[host] = proven.log
    for owner in owners:
        appraisal = appraise(proven, record, owner.anchors, owner.references, now=now)

Whether a vendor, a file or a violation is acceptable is then each owner's: see ``appraisal``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, InputError, Reason
from svetovid.evidence.boot import Boot, prove_boot
from svetovid.evidence.documents import (
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    TeeEvidence,
    TpmEvidence,
    binding,
)
from svetovid.evidence.enrolment import check_device, check_ek_certificate, open_statement
from svetovid.evidence.ima.state import LogState, advance
from svetovid.evidence.tee import SimulatedReport, verify_report
from svetovid.evidence.tpm.attributes import check_ak, check_ek
from svetovid.evidence.tpm.constants import MEASUREMENT_PCR, RESETTABLE_PCRS
from svetovid.evidence.tpm.names import endorsement_signers
from svetovid.evidence.tpm.quote import verify_quote
from svetovid.evidence.tpm.structures import ClockInfo, Public, parse_public

__all__ = ["NEEDED_PCRS", "Proven", "verify_evidence"]

NEEDED_PCRS = frozenset(range(MEASUREMENT_PCR + 1))
"""Firmware and boot in 0 to 9, measured files in 10."""
_SKEW = 5
"""Seconds by which two replicas of a manager may disagree."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What one piece of evidence proves, before any owner judges it. Made by
    :func:`verify_evidence` only.

    Attributes:
        statement: the operator's, verified.
        host: digest of that statement.
        challenge, keys, channel, subject: all bound into the evidence.
        log: the measurement log; pass it in with this host's next evidence. None for a TEE.
        pcrs: SHA-256 bank, without the PCRs that software may reset.
        clock: of the TPM; see :func:`svetovid.evidence.check_no_reset` (T12).
        boot: what the boot log proves, or why it proves nothing; None where none came along.
        report: of the simulated TEE.
    """

    kind: str
    statement: HostStatement
    host: str
    challenge: Challenge
    keys: JobKeys
    channel: str
    subject: str
    log: LogState | None = None
    pcrs: Mapping[int, bytes] | None = None
    clock: ClockInfo | None = None
    boot: Boot | Reason | None = None
    report: SimulatedReport | None = None


def _equal(code: str, expected: object, observed: object, next_step: str) -> None:
    if expected != observed:
        raise EvidenceError(code, expected=expected, observed=observed, next_step=next_step)


def _check_scope(
    evidence: TpmEvidence | TeeEvidence,
    record: HostRecord,
    challenge: Challenge,
    channel: str,
    subject: str,
    now: int,
) -> HostStatement:
    """Rules 1 to 4."""
    host = record.host_id
    _equal("evidence.host", host, evidence.host, "send the evidence of the host that was asked")
    said = evidence.challenge.peek(Challenge)
    again = "ask for a new challenge and answer that one"
    _equal("challenge.mismatch", challenge.digest(), said.digest(), again)
    _equal("challenge.scope", host, challenge.host, "answer the challenge of this host")
    if not challenge.issued_at - _SKEW <= now <= challenge.expires_at:
        raise EvidenceError(
            "challenge.expired",
            expected=f"an answer between {challenge.issued_at} and {challenge.expires_at}",
            observed=now,
            next_step=again,
        )
    _equal(
        "channel.binding",
        channel,
        evidence.channel,
        "connect to the manager itself; something between answers in its place",
    )
    _equal("evidence.subject", subject, evidence.subject, "quote over the outputs that were sent")
    evidence.challenge.open(Challenge, by=challenge.signer)
    statement = open_statement(record.statement)
    _equal(
        "evidence.kind",
        statement.kind,
        evidence.kind,
        "send the kind of evidence that the host enrolled with",
    )
    return statement


def _required(value: str | None) -> bytes:
    if value is None:
        raise EvidenceError(
            "enrol.form",
            expected="a TPM host's record with EK and AK",
            observed="one without",
            next_step="enrol the host again",
        )
    return b64decode(value)


@lru_cache(maxsize=2048)
def _keys(record: HostRecord, statement: HostStatement) -> tuple[Public, frozenset[bytes]]:
    """The AK and the qualified names it may have. All of it depends on the record alone, which
    stays the same while a host attests hundreds of times; what is refused is judged anew."""
    ek_public, ak_public = _required(record.ek_public), _required(record.ak_public)
    certificate = b64decode(record.device_certificates[0])
    ek, ak = parse_public(ek_public), parse_public(ak_public)
    check_device(statement, ek_public, certificate)
    check_ek(ek)
    check_ak(ak)
    check_ek_certificate(ek_public, certificate)
    return ak, endorsement_signers(ek, ak)


def _pcrs(evidence: TpmEvidence) -> dict[int, bytes]:
    return {int(number): bytes.fromhex(value) for number, value in evidence.pcrs.items()}


def _boot(evidence: TpmEvidence, pcrs: Mapping[int, bytes]) -> Boot | Reason | None:
    """Rule 7."""
    if evidence.boot_log is None:
        return None
    try:
        return prove_boot(b64decode(evidence.boot_log), pcrs)
    except (InputError, EvidenceError) as e:
        return e.reason


def verify_evidence(
    evidence: TpmEvidence | TeeEvidence,
    record: HostRecord,
    *,
    challenge: Challenge,
    channel: str,
    subject: str,
    log: LogState | None,
    now: int,
) -> Proven:
    """Verify evidence against a host's record; the module's text lists the rules.

    Args:
        evidence: as the host sent it.
        record: the manager's own record of the host.
        challenge: as the manager issued it, taken from the manager's store, not from the evidence.
        channel: digest of the TLS certificate that the manager's server showed.
        subject: what the evidence must speak of.
        log: proven log of this host up to ``challenge.log_offset``; None for offset 0.
        now: Unix seconds.

    Raises:
        InputError: ``attest.malformed``, ``tpm.malformed``, ``ima.malformed``, ``ima.size``,
            ``json.*``, ``document.*``.
        IntegrityError: ``signature.*``.
        EvidenceError: ``evidence.*``, ``challenge.*``, ``channel.binding``, ``enrol.form``,
            ``ak.*``, ``ek.*``, ``attest.*``, ``sig.*``, ``pcr.*``, ``ima.*``, ``tee.*``.
    """
    statement = _check_scope(evidence, record, challenge, channel, subject, now)
    expected = binding(challenge, evidence.keys, channel, subject)
    if isinstance(evidence, TeeEvidence):
        certificate = b64decode(record.device_certificates[0])
        check_device(statement, None, certificate)
        report = verify_report(
            b64decode(evidence.report),
            b64decode(evidence.signature),
            certificate=certificate,
            report_data=expected,
        )
        return Proven(
            kind=evidence.kind,
            statement=statement,
            host=evidence.host,
            challenge=challenge,
            keys=evidence.keys,
            channel=channel,
            subject=subject,
            report=report,
        )
    ak, signers = _keys(record, statement)
    pcrs = _pcrs(evidence)
    quote = verify_quote(
        b64decode(evidence.quote),
        b64decode(evidence.signature),
        ak=ak,
        signers=signers,
        extra_data=expected,
        pcrs=pcrs,
        needed=NEEDED_PCRS,
    )
    if challenge.log_offset != evidence.log_offset:
        raise EvidenceError(
            "ima.offset",
            expected=f"the log from entry {challenge.log_offset} on, as the challenge asks",
            observed=evidence.log_offset,
            next_step="ask for a challenge with log_offset 0 and send the whole log",
        )
    boot = _boot(evidence, pcrs)
    state = advance(
        log,
        b64decode(evidence.log),
        offset=evidence.log_offset,
        pcrs=pcrs,
        clock=quote.clock,
        banks=boot.values if isinstance(boot, Boot) else None,
    )
    return Proven(
        kind=evidence.kind,
        statement=statement,
        host=evidence.host,
        challenge=challenge,
        keys=evidence.keys,
        channel=channel,
        subject=subject,
        log=state,
        pcrs={i: value for i, value in pcrs.items() if i not in RESETTABLE_PCRS},
        clock=quote.clock,
        boot=boot,
    )
