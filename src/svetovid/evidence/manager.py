"""What a manager proves of its own machine, to whoever is about to give it a key (T1).

The manager shows its record: its own statement on which machine it is, and the TPM's certificates
and keys. The asker answers with a challenge in role ``manager`` and a credential for that TPM.
Rules:

1. The statement is the manager's own, signed by its key, and is about the device that was pinned
   with that key: no other machine's evidence counts.
2. EK, AK and the EK's certificate are sound (:func:`check_enrolment`, T3).
3. Only the TPM that holds both EK and AK can have opened the credential (I3). What comes back is
   not the secret in it but a proof over the evidence's own binding, so that a manager can never be
   used to open what another verifier sent.
4. The evidence carries the keys of the manager's card, the channel and the challenge (T6), and all
   that :func:`verify_evidence` asks of a host holds.

Whether vendor and measured files are acceptable is then the asker's own to say, by ``appraise``.
"""

from __future__ import annotations

import hmac

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError
from svetovid.evidence.documents import (
    NO_SUBJECT,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    TpmEvidence,
    binding,
)
from svetovid.evidence.enrolment import check_enrolment
from svetovid.evidence.verify import Proven, verify_evidence

__all__ = ["activation_proof", "check_manager", "verify_manager"]

_LABEL = b"svetovid manager activation\x00"


def activation_proof(secret: bytes, bound: bytes) -> bytes:
    """That whoever answers opened the credential around ``secret``, for this very evidence.

    Args:
        secret: what the credential holds.
        bound: the evidence's :func:`binding`.
    """
    return hmac.digest(secret, _LABEL + bound, "sha256")


def check_manager(record: HostRecord, *, manager: str, device: str, now: int) -> HostStatement:
    """Rules 1 and 2: what needs neither an answer nor an anchor.

    Args:
        record: as the manager showed it.
        manager, device: as pinned.
        now: Unix seconds.

    Raises:
        EvidenceError: ``manager.record``, ``manager.device``, or as :func:`check_enrolment` raises.
        ParseError, IntegrityError: as :func:`check_enrolment` raises.
    """
    keys = [None if k is None else b64decode(k) for k in (record.ek_public, record.ak_public)]
    certificates = [b64decode(c) for c in record.device_certificates]
    said = check_enrolment(record.statement, certificates, keys[0], keys[1], now)
    own = (said.operator, said.agent, said.kind)
    _equal("manager.record", (manager, manager, "tpm"), own, "report this manager to its users")
    _equal(
        "manager.device",
        device,
        said.device,
        "it is another machine than the one that was pinned: ask for its new pin, out of band",
    )
    return said


def verify_manager(
    evidence: TpmEvidence,
    proof: bytes,
    record: HostRecord,
    *,
    challenge: Challenge,
    secret: bytes,
    keys: JobKeys,
    channel: str,
    now: int,
) -> Proven:
    """Rules 3 and 4, of an answer to ``challenge``.

    Args:
        evidence, proof: the answer.
        record: after :func:`check_manager`.
        challenge: the asker's own, not taken from the evidence.
        secret: what the asker put into the credential.
        keys: of the manager's card, as pinned.
        channel: digest of the certificate that the manager's TLS server showed.
        now: Unix seconds.

    Raises:
        EvidenceError: ``manager.keys``, ``manager.activation``, or as :func:`verify_evidence`.
        InputError, IntegrityError: as :func:`verify_evidence`.
    """
    _equal("manager.keys", keys, evidence.keys, "report this manager to its users")
    expected = activation_proof(secret, binding(challenge, keys, channel))
    if not hmac.compare_digest(expected, proof):
        raise EvidenceError(
            "manager.activation",
            expected="the credential opened, for this evidence, by the TPM of this EK and AK",
            observed="another proof",
            next_step="the manager's key is not in the TPM it names: report it to its users",
        )
    return verify_evidence(
        evidence,
        record,
        challenge=challenge,
        channel=channel,
        subject=NO_SUBJECT,
        log=None,
        now=now,
    )


def _equal(code: str, expected: object, observed: object, next_step: str) -> None:
    if expected != observed:
        raise EvidenceError(code, expected=expected, observed=observed, next_step=next_step)
