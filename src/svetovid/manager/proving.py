"""What a manager proves of its own machine, to whoever is about to give it a key (T1).

The manager's room does not know TPMs: the roof hands in a :class:`Prover`. What is answered here
binds role ``manager``, this manager's key and card, its TLS channel and the asker's nonce (T6), and
is no use to anybody else: evidence in this role releases nothing, and of a credential comes back a
proof, never its secret.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from svetovid.crypto import Envelope, Secret, b64decode, b64encode, digest
from svetovid.errors import EvidenceError, LimitError
from svetovid.evidence import NO_JOB, activation_proof, binding
from svetovid.evidence.documents import Challenge, HostRecord, HostStatement, JobKeys, TpmEvidence
from svetovid.manager.core import Core
from svetovid.protocol.managers import ManagerProof, ProofRequest
from svetovid.protocol.messages import JsonObject

__all__ = ["OwnEvidence", "Prover"]

_WAITING = 4
"""Requests that may wait for the TPM: half of those that the service works on at a time."""


class Prover(Protocol):
    """A TPM with a certificate, and the measurement log of what this process runs.

    Attributes:
        certificates: DER, the EK's own first.
        ek, ak: TPMT_PUBLIC.
    """

    @property
    def certificates(self) -> Sequence[bytes]: ...

    @property
    def ek(self) -> bytes: ...

    @property
    def ak(self) -> bytes: ...

    def activate(self, credential: bytes, secret: bytes) -> Secret:
        """What the credential holds, if it is for this EK and this AK."""

    def evidence(self, challenge: Envelope, keys: JobKeys, channel: str, host: str) -> TpmEvidence:
        """Whatever changed measured, then a fresh quote with the whole log."""


class OwnEvidence:
    """A manager's record of its own machine, and evidence on request.

    Args:
        channel: digest of the certificate that the manager's TLS server shows.
        prover: none where this machine cannot prove anything.
    """

    def __init__(self, core: Core, channel: str, prover: Prover | None) -> None:
        self._core = core
        self._channel = channel
        self._prover = prover
        self._record = None if prover is None else self._about(prover)
        self._places = threading.BoundedSemaphore(_WAITING)
        self._one = threading.Lock()

    def _about(self, prover: Prover) -> HostRecord:
        me = self._core.me
        statement = HostStatement(
            host=self._core.identity.name,
            operator=me,
            machine_owner="whoever runs the manager",
            kind="tpm",
            device=digest(prover.ek),
            agent=me,
            issued_at=self._core.now(),
        )
        return HostRecord(
            statement=self._core.sign(statement),
            device_certificates=tuple(b64encode(c) for c in prover.certificates),
            ek_public=b64encode(prover.ek),
            ak_public=b64encode(prover.ak),
        )

    def record(self) -> JsonObject:
        """The signed :class:`HostRecord` of this manager's own machine.

        Raises:
            EvidenceError: ``evidence.none``.
        """
        _, record = self._able()
        return self._core.sign(record).to_json()

    def prove(self, request: ProofRequest) -> JsonObject:
        """Evidence for one challenge; a :class:`ManagerProof` back.

        Raises:
            EvidenceError: ``evidence.none``, ``challenge.scope``, ``manager.credential``.
            IntegrityError: ``request.manager``, ``signature.*``.
            LimitError: ``evidence.busy``.
            HostError: whatever the TPM or the measurement fails in.
        """
        prover, record = self._able()
        core = self._core
        claimed = request.challenge.peek(Challenge)
        core.for_me(claimed.manager)
        asked = request.challenge.open(Challenge, by=claimed.signer)
        scope = (asked.role, asked.host, asked.job, asked.log_offset)
        if asked.asker is None or scope != ("manager", record.host_id, NO_JOB, 0):
            raise EvidenceError(
                "challenge.scope",
                expected=f"one in role manager for {record.host_id}, signed by its asker",
                observed=f"role {asked.role} for {asked.host}",
                next_step="read this manager's record anew, and make a challenge for it",
            )
        keys = JobKeys(receiving=core.identity.card.receiving, signing=core.me)
        with self._turn():
            secret = prover.activate(b64decode(request.credential), b64decode(request.secret))
            evidence = prover.evidence(request.challenge, keys, self._channel, record.host_id)
        proof = activation_proof(secret.reveal(), binding(asked, keys, self._channel))
        return ManagerProof(evidence=evidence, proof=b64encode(proof)).to_json()

    def _able(self) -> tuple[Prover, HostRecord]:
        if self._prover is None or self._record is None:
            raise EvidenceError(
                "evidence.none",
                expected="a TPM with a certificate under this manager",
                observed="none",
                next_step="trust this manager without proof, or have it served with --tpm",
            )
        return self._prover, self._record

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A TPM is slow: whoever floods this must not keep releases waiting."""
        if not self._places.acquire(blocking=False):
            raise LimitError(
                "evidence.busy",
                expected=f"at most {_WAITING} requests for this manager's own evidence at a time",
                observed="more",
                next_step="ask again in a moment",
            )
        try:
            with self._one:
                yield
        finally:
            self._places.release()
