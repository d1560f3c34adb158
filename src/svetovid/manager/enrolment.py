"""Hosts join: the operator's statement, the device's certificate, and proof that it holds its keys.

Rules (T3):

1. The statement is signed by a registered operator whose key stands, and the request by the agent
   key in it: whoever enrols is known (I10).
2. Statement, certificate, EK and AK agree; the AK has the attributes of a restricted signing key.
   Whether the certificate's maker is to be believed is for each owner's anchors to say (T2).
3. One device, one host: a device or AK that is enrolled is not enrolled again under another name
   (I4, I9), unless the operator that enrolled it was revoked: then the machine may have another.
4. Only the TPM that holds both EK and AK can open the credential (I3), only the TEE that holds its
   certificate's key can report over the nonce. Until the host answers, there is no record.
5. Open enrolments live in memory, for a minute. Where there are too many, those of the operator
   with the most give way, oldest first: nobody else is kept out. Their hosts ask again.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from svetovid.crypto import Envelope, b64decode, b64encode, digest
from svetovid.errors import EvidenceError, IntegrityError
from svetovid.evidence.documents import HostRecord, HostStatement
from svetovid.evidence.enrolment import check_enrolment, enrolment_binding
from svetovid.evidence.tee import verify_report
from svetovid.evidence.tpm.credential import RANDOMNESS_BYTES, make_credential
from svetovid.manager.admission import Admission
from svetovid.manager.core import Core
from svetovid.manager.rejecting import Rejecting
from svetovid.manager.state import Host, State
from svetovid.protocol.hosts import (
    Activation,
    EnrolAnswer,
    EnrolChallenge,
    EnrolRequest,
    PossessionChallenge,
)

__all__ = ["Enrolment"]

_SECRET_BYTES = 32
_MAX_PENDING = 1024
_MAX_EACH = 64


@dataclass(frozen=True, slots=True)
class _Pending:
    """An open enrolment. ``secret`` is in a TPM's credential; of a TEE it is the nonce."""

    record: HostRecord
    statement: HostStatement
    operator: str
    secret: bytes
    expires_at: int


class _Waiting:
    """Open enrolments: none for long, and never more of one operator than is fair."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Pending] = {}

    def add(self, name: str, pending: _Pending, now: int) -> None:
        with self._lock:
            self._open = {n: p for n, p in self._open.items() if p.expires_at > now}
            each = Counter(p.operator for p in self._open.values())
            if each[pending.operator] >= _MAX_EACH:
                self._drop(pending.operator)
            elif len(self._open) >= _MAX_PENDING:
                self._drop(max(each, key=each.__getitem__))
            self._open[name] = pending

    def _drop(self, operator: str) -> None:
        del self._open[next(n for n, p in self._open.items() if p.operator == operator)]

    def get(self, name: str) -> _Pending:
        """Raises EvidenceError ``enrol.unknown``."""
        with self._lock:
            return self._found(name, self._open.get(name))

    def take(self, name: str) -> _Pending:
        """The same, once. Raises EvidenceError ``enrol.unknown``."""
        with self._lock:
            return self._found(name, self._open.pop(name, None))

    @staticmethod
    def _found(name: str, pending: _Pending | None) -> _Pending:
        if pending is None:
            raise EvidenceError(
                "enrol.unknown",
                expected="an open enrolment, and one answer to it",
                observed=name,
                next_step="svetovid host enrol",
            )
        return pending


class Enrolment:
    """The door for hosts."""

    def __init__(self, core: Core, admission: Admission, rejecting: Rejecting) -> None:
        self._core = core
        self._admission = admission
        self._rejecting = rejecting
        self._waiting = _Waiting()

    def enrol(self, envelope: Envelope) -> dict[str, Any]:
        """An :class:`EnrolRequest`; an :class:`EnrolAnswer` back.

        Raises:
            IntegrityError: ``enrol.operator``, ``enrol.identity_conflict``, ``ak.duplicate``,
                ``signature.*``, ``key.*``.
            EvidenceError: what :func:`check_enrolment` finds.
        """
        core = self._core
        request = envelope.peek(EnrolRequest)
        core.for_me(request.manager)
        core.timely(request.issued_at)
        claimed = request.statement.peek(HostStatement)
        envelope.open(EnrolRequest, by=claimed.agent)
        with self._rejecting.recorded("host", request.statement):
            self._operator(request.statement, claimed.operator)
            return self._asked(request).to_json()

    def _asked(self, request: EnrolRequest) -> EnrolAnswer:
        core = self._core
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
        pending = _Pending(
            record=record,
            statement=statement,
            operator=core.state.root(statement.operator),
            secret=secrets.token_bytes(_SECRET_BYTES),
            expires_at=core.now() + core.settings.challenge_s,
        )
        if ek is None or ak is None:
            return EnrolAnswer(possession=self._possession(pending))
        return EnrolAnswer(challenge=self._credential(pending, ek, ak))

    def activate(self, envelope: Envelope) -> dict[str, Any]:
        """An :class:`Activation`; the signed :class:`HostRecord` back. One try each.

        Raises:
            IntegrityError: ``enrol.identity_conflict``, ``ak.duplicate``, ``signature.*``.
            EvidenceError: ``enrol.unknown``, ``enrol.expired``; ``enrol.name`` for another TPM's
                answer, ``tee.*`` and ``challenge.mismatch`` for another TEE's.
            LimitError: ``store.quota``.
        """
        answer = envelope.peek(Activation)
        envelope.open(Activation, by=self._waiting.get(answer.id).statement.agent)
        pending = self._waiting.take(answer.id)
        with self._rejecting.recorded("host", pending.record.statement):
            self._proven(answer, pending)
            return self._record(pending.record, pending.statement).to_json()

    def _proven(self, answer: Activation, pending: _Pending) -> None:
        if self._core.now() >= pending.expires_at:
            raise EvidenceError(
                "enrol.expired",
                expected=f"an answer before {pending.expires_at}",
                observed=str(self._core.now()),
                next_step="enrol again",
            )
        if pending.record.ak_public is None:
            verify_report(
                b64decode(answer.report),
                b64decode(answer.signature),
                certificate=b64decode(pending.record.device_certificates[0]),
                report_data=self._binding(pending),
            )
        elif not hmac.compare_digest(b64decode(answer.activated), pending.secret):
            raise EvidenceError(
                "enrol.name",
                expected="the secret that only the TPM of this EK and AK can open",
                observed="another",
                next_step="enrol with the very TPM of the certificate",
            )

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
        if statement.agent in state.pinned:
            # An agent key is not asked for its history: a revoked identity must not live on as one.
            raise IntegrityError(
                "enrol.identity_conflict",
                expected="an agent key that is nobody's identity",
                observed=statement.agent,
                next_step="set the host up anew: svetovid host init makes it a key of its own",
            )
        held = state.hosts.get(record.host_id)
        if held is not None and held.ak == _ak(record):
            return
        for host in list(state.hosts.values()):  # others may join meanwhile
            if host.operator not in state.revoked:
                self._conflict(state, host, record, statement)

    def _conflict(
        self, state: State, host: Host, record: HostRecord, statement: HostStatement
    ) -> None:
        ak = _ak(record)
        if ak and host.ak == ak and host.device != statement.device:
            raise IntegrityError(
                "ak.duplicate",
                expected="an AK that no other host has",
                observed=ak,
                next_step="make an AK for this host",
            )
        one_operator = state.root(host.operator) == state.root(statement.operator)
        same = one_operator and host.name == statement.host
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

    def _credential(self, pending: _Pending, ek: bytes, ak: bytes) -> EnrolChallenge:
        randomness = secrets.token_bytes(RANDOMNESS_BYTES)
        credential, encrypted = make_credential(ek, ak, pending.secret, randomness=randomness)
        name = digest(credential + encrypted)
        self._waiting.add(name, pending, self._core.now())
        return EnrolChallenge(
            id=name,
            credential=b64encode(credential),
            secret=b64encode(encrypted),
            expires_at=pending.expires_at,
        )

    def _possession(self, pending: _Pending) -> PossessionChallenge:
        name = digest(self._binding(pending))
        self._waiting.add(name, pending, self._core.now())
        nonce = b64encode(pending.secret)
        return PossessionChallenge(id=name, nonce=nonce, expires_at=pending.expires_at)

    def _binding(self, pending: _Pending) -> bytes:
        nonce = b64encode(pending.secret)
        return enrolment_binding(self._core.me, pending.record.host_id, nonce)

    def _record(self, record: HostRecord, statement: HostStatement) -> Envelope:
        core = self._core
        envelope = core.sign(record)
        with core.store.write() as tx:
            self._operator(record.statement, statement.operator)
            self._conflicts(tx.state, record, statement)
            held = tx.state.hosts.get(record.host_id)
            if held is None or held.record != record.digest():
                body = {
                    "host": record.host_id,
                    "name": statement.host,
                    "document": record.digest(),
                    "agent": statement.agent,
                    "operator": statement.operator,
                    "device": statement.device,
                    "ak": _ak(record),
                    "by": statement.operator,
                    "bytes": self._admission.room(tx.state, statement.operator, envelope),
                }
                parties = [statement.operator, statement.agent]
                tx.append(core.entry("host", parties, body), envelope)
        return envelope


def _ak(record: HostRecord) -> str:
    return "" if record.ak_public is None else digest(b64decode(record.ak_public))
