"""Having a manager prove what it runs, by anchors and reference values of one's own (T1, T2)."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from svetovid.crypto import Digest, Signer, b64decode, b64encode, sign
from svetovid.errors import EvidenceError
from svetovid.evidence import (
    NO_JOB,
    Appraisal,
    Challenge,
    JobKeys,
    appraise,
    check_manager,
    make_credential,
    verify_manager,
)
from svetovid.evidence.tpm.credential import RANDOMNESS_BYTES
from svetovid.protocol import ManagerClient, ManagerDemand, ProofRequest

__all__ = ["prove_manager", "words"]

_ANSWER_S = 60
_SECRET_BYTES = 32


def prove_manager(
    client: ManagerClient,
    asker: Signer,
    device: Digest,
    demand: ManagerDemand,
    clock: Callable[[], float],
) -> Appraisal:
    """Ask the manager for evidence of its own machine, and judge it.

    Args:
        client: of the pinned manager, over its pinned channel.
        asker: signs the challenge.
        device: of the manager's machine, as pinned.
        demand: the asker's own anchors and reference values.
        clock: Unix seconds.

    Returns:
        The appraisal; it is affirmed.

    Raises:
        EvidenceError: ``evidence.none``, ``manager.*``, what :func:`verify_evidence` finds, or the
            reasons of an appraisal that is not affirmed.
        InputError, IntegrityError, TransportError: as the client and the verification raise.
    """
    record = client.own_record()
    now = int(clock())
    check_manager(record, manager=client.manager, device=device, now=now)
    challenge = Challenge(
        nonce=b64encode(secrets.token_bytes(32)),
        manager=client.manager,
        host=record.host_id,
        job=NO_JOB,
        role="manager",
        issued_at=now,
        expires_at=now + _ANSWER_S,
        asker=asker.key_id,
    )
    secret = secrets.token_bytes(_SECRET_BYTES)
    credential, encrypted = make_credential(
        b64decode(record.ek_public or ""),
        b64decode(record.ak_public or ""),
        secret,
        randomness=secrets.token_bytes(RANDOMNESS_BYTES),
    )
    answer = client.prove(
        ProofRequest(
            challenge=sign(challenge, asker),
            credential=b64encode(credential),
            secret=b64encode(encrypted),
        )
    )
    now = int(clock())
    proven = verify_manager(
        answer.evidence,
        b64decode(answer.proof),
        record,
        challenge=challenge,
        secret=secret,
        keys=JobKeys(receiving=client.card.receiving, signing=client.manager),
        channel=client.channel,
        now=now,
    )
    found = appraise(proven, record, demand.anchors, demand.references, now=now)
    if not found.affirmed:
        raise EvidenceError.from_reasons(found.reasons())
    return found


def words(found: Appraisal | None) -> str:
    """The line that people read before they upload a key (T1)."""
    if found is None:
        return "manager: trusted, unproven"
    facts = found.facts()
    simulated = "" if facts["simulated"] is False else ", simulated"
    return f"manager: proven (measurement: {facts['measurement']}{simulated})"
