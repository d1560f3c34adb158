"""Hosts join: the operator's statement, the EK's certificate, and proof that EK and AK are one TPM.

Rules (T3):

1. The statement is signed by a registered operator whose key stands, and the request by the agent
   key in it: whoever enrols is known (I10).
2. Statement, certificate, EK and AK agree; the AK has the attributes of a restricted signing key.
   Whether the certificate's maker is to be believed is for each owner's anchors to say (T2).
3. One device, one host: a device or AK that is enrolled is not enrolled again under another name
   (I4, I9).
4. Only the TPM that holds both EK and AK can answer the credential (I3). Until it does, there is no
   record. An open challenge lives in memory: after a restart the host asks again.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from svetovid.crypto import Envelope, b64decode, b64encode, digest
from svetovid.errors import EvidenceError, IntegrityError, LimitError
from svetovid.evidence.documents import HostRecord, HostStatement
from svetovid.evidence.enrolment import check_enrolment
from svetovid.evidence.tpm.credential import RANDOMNESS_BYTES, make_credential
from svetovid.manager.core import Core
from svetovid.manager.state import Host, State
from svetovid.protocol.messages import Activation, EnrolAnswer, EnrolChallenge, EnrolRequest

__all__ = ["Enrolment"]

_SECRET_BYTES = 32
_MAX_PENDING = 1024


@dataclass(frozen=True, slots=True)
class _Pending:
    record: HostRecord
    statement: HostStatement
    secret: bytes
    expires_at: int


class Enrolment:
    """The door for hosts."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._pending: dict[str, _Pending] = {}

    def enrol(self, envelope: Envelope) -> dict[str, Any]:
        """An :class:`EnrolRequest`; an :class:`EnrolAnswer` back.

        Raises:
            IntegrityError: ``enrol.operator``, ``enrol.identity_conflict``, ``ak.duplicate``,
                ``signature.*``, ``key.*``.
            EvidenceError: what :func:`check_enrolment` finds.
            LimitError: ``enrol.pending``, ``store.quota``.
        """
        core = self._core
        request = envelope.peek(EnrolRequest)
        core.for_me(request.manager)
        core.timely(request.issued_at)
        claimed = request.statement.peek(HostStatement)
        envelope.open(EnrolRequest, by=claimed.agent)
        self._operator(request.statement, claimed.operator)
        if claimed.agent in core.state.pinned:
            # An agent key is not asked for its history: a revoked identity must not live on as one.
            raise IntegrityError(
                "enrol.identity_conflict",
                expected="an agent key that is nobody's identity",
                observed=claimed.agent,
                next_step="set the host up anew: svetovid host init makes it a key of its own",
            )
        certificates = tuple(b64decode(c) for c in request.device_certificates)
        ek = None if request.ek_public is None else b64decode(request.ek_public)
        ak = None if request.ak_public is None else b64decode(request.ak_public)
        statement = check_enrolment(request.statement, certificates, ek, ak, core.now())
        record = HostRecord(
            statement=request.statement,
            device_certificates=request.device_certificates,
            ek_public=request.ek_public,
            ak_public=request.ak_public,
        )
        self._conflicts(core.state, record, statement)
        if statement.kind == "simulated-tee" or ek is None or ak is None:
            return EnrolAnswer(record=self._record(record, statement)).to_json()
        return EnrolAnswer(challenge=self._challenge(record, statement, ek, ak)).to_json()

    def activate(self, envelope: Envelope) -> dict[str, Any]:
        """An :class:`Activation`; the signed :class:`HostRecord` back.

        Raises:
            EvidenceError: ``enrol.unknown``, ``enrol.expired``, ``enrol.name`` for another TPM's
                answer. One try each.
        """
        answer = envelope.peek(Activation)
        with self._lock:
            pending = self._pending.get(answer.id)
        if pending is None:
            raise EvidenceError(
                "enrol.unknown",
                expected="an open credential challenge",
                observed=answer.id,
                next_step="svetovid host enrol",
            )
        envelope.open(Activation, by=pending.statement.agent)
        with self._lock:
            if self._pending.pop(answer.id, None) is None:
                raise EvidenceError(
                    "enrol.unknown",
                    expected="one answer",
                    observed=answer.id,
                    next_step="svetovid host enrol",
                )
        if self._core.now() >= pending.expires_at:
            raise EvidenceError(
                "enrol.expired",
                expected=f"an answer before {pending.expires_at}",
                observed=str(self._core.now()),
                next_step="enrol again",
            )
        if not hmac.compare_digest(b64decode(answer.activated), pending.secret):
            raise EvidenceError(
                "enrol.name",
                expected="the secret that only the TPM of this EK and AK can open",
                observed="another",
                next_step="enrol with the very TPM of the certificate",
            )
        return self._record(pending.record, pending.statement).to_json()

    def _operator(self, statement: Envelope, operator: str) -> None:
        if operator not in self._core.state.pinned:
            raise IntegrityError(
                "enrol.operator",
                expected="a statement by a registered operator",
                observed=operator,
                next_step="the operator registers with this manager first",
            )
        self._core.opened(statement, HostStatement, operator)

    def _conflicts(self, state: State, record: HostRecord, statement: HostStatement) -> None:
        held = state.hosts.get(record.host_id)
        if held is not None and held.ak == _ak(record):
            return
        for host in state.hosts.values():
            self._conflict(host, record, statement)

    def _conflict(self, host: Host, record: HostRecord, statement: HostStatement) -> None:
        ak = _ak(record)
        if ak and host.ak == ak and host.device != statement.device:
            raise IntegrityError(
                "ak.duplicate",
                expected="an AK that no other host has",
                observed=ak,
                next_step="make an AK for this host",
            )
        same = (host.operator, host.name) == (statement.operator, statement.host)
        if host.device == statement.device and not same:
            raise IntegrityError(
                "enrol.identity_conflict",
                expected="a device that is not enrolled as another host",
                observed=statement.device,
                next_step="ask who has enrolled this machine, or use the name it has",
            )
        if same and host.device != statement.device:
            raise IntegrityError(
                "enrol.identity_conflict",
                expected=f"the machine that {statement.host} is",
                observed=statement.device,
                next_step="give another machine another name",
            )

    def _challenge(
        self, record: HostRecord, statement: HostStatement, ek: bytes, ak: bytes
    ) -> EnrolChallenge:
        secret = secrets.token_bytes(_SECRET_BYTES)
        randomness = secrets.token_bytes(RANDOMNESS_BYTES)
        credential, encrypted = make_credential(ek, ak, secret, randomness=randomness)
        expires_at = self._core.now() + self._core.settings.challenge_s
        name = digest(credential + encrypted)
        with self._lock:
            now = self._core.now()
            self._pending = {n: p for n, p in self._pending.items() if p.expires_at > now}
            if len(self._pending) >= _MAX_PENDING:
                raise LimitError(
                    "enrol.pending",
                    expected=f"at most {_MAX_PENDING} open enrolments",
                    observed=str(len(self._pending)),
                    next_step="try again in a minute",
                )
            self._pending[name] = _Pending(record, statement, secret, expires_at)
        return EnrolChallenge(
            id=name,
            credential=b64encode(credential),
            secret=b64encode(encrypted),
            expires_at=expires_at,
        )

    def _record(self, record: HostRecord, statement: HostStatement) -> Envelope:
        core = self._core
        envelope = core.sign(record)
        with core.store.write() as tx:
            self._conflicts(tx.state, record, statement)
            held = tx.state.hosts.get(record.host_id)
            if held is None or held.record != record.digest():
                core.within(len(tx.state.hosts), core.settings.hosts, "hosts")
                body = {
                    "host": record.host_id,
                    "name": statement.host,
                    "document": record.digest(),
                    "agent": statement.agent,
                    "operator": statement.operator,
                    "device": statement.device,
                    "ak": _ak(record),
                    "by": statement.operator,
                }
                parties = [statement.operator, statement.agent]
                tx.append(core.entry("host", parties, body), envelope)
        return envelope


def _ak(record: HostRecord) -> str:
    return "" if record.ak_public is None else digest(b64decode(record.ak_public))
