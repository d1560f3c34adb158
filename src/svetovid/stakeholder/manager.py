"""Speaking with the pinned manager, and what it says of itself."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from svetovid.crypto import Envelope, KeyId, Revocation, sign
from svetovid.errors import EvidenceError, InputError, RefusalError
from svetovid.evidence import Appraisal
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.managers import ManagerDemand, ManagerStatus
from svetovid.protocol.messages import JobStatus, ManagerPin
from svetovid.protocol.records import Record
from svetovid.protocol.seen import SeenFile
from svetovid.stakeholder.identity import Stakeholder, rotate, rotations
from svetovid.stakeholder.pins import pinned_demand, pinned_manager
from svetovid.stakeholder.proving import prove_manager, words

__all__ = [
    "ManagerClaims",
    "announce",
    "connect",
    "hand_over",
    "records",
    "revoke_key",
    "status",
    "verify_manager",
]


@dataclass(frozen=True, slots=True)
class ManagerClaims:
    """What is known of a manager, and on whose word.

    Attributes:
        channel: digest of the certificate its TLS server shows, as pinned.
        status: what it says of itself, signed; a status proves nothing.
        proof: its own evidence, affirmed by the asker's anchors and values; None if unproven.
        why: why it is unproven; empty if it is not.
    """

    key: KeyId
    channel: str
    status: ManagerStatus
    proof: Appraisal | None = None
    why: str = ""

    @property
    def verdict(self) -> str:
        """The line that people read before they upload a key (T1)."""
        return words(self.proof)


def connect(who: Stakeholder, *, register: bool = True) -> ManagerClient:
    """The pinned manager, over its pinned channel; older logs are refused from now on (T1, T15).

    Args:
        who: whose pin, keys and memory of the log are used.
        register: make the own card known first; doing it again changes nothing.

    Raises:
        InputError: ``manager.unpinned``.
        TransportError, IntegrityError: as :class:`ManagerClient`.
    """
    transport = None if who.transport is None else who.transport()
    pin = pinned_manager(who.home)
    client = ManagerClient(
        pin,
        who.identity,
        seen=SeenFile(who.home.seen),
        transport=transport,
        before_deposit=partial(_satisfied, who, pin),
    )
    if register:
        try:
            _introduce(who, client)
        except BaseException:
            client.close()
            raise
    return client


def _introduce(who: Stakeholder, client: ManagerClient) -> None:
    """Make the current key known: as what followed the ones before, where those are known.

    Registered by itself, it could never speak for what the older keys own, nor end them.
    """
    chain = rotations(who.home)
    for first in reversed(range(len(chain))):
        try:
            for statement in chain[first:]:
                client.rotate(statement)
        except RefusalError as e:
            if e.code != "identity.unknown":
                raise
        else:
            return
    client.register_identity(who.identity.signed_card())


def verify_manager(who: Stakeholder, demand: ManagerDemand | None = None) -> ManagerClaims:
    """Check that the manager behind the pinned address is the pinned one, and what it can prove.

    A manager without evidence of its own is trusted and not proven; the verdict says so (T1).

    Args:
        who: whose pin.
        demand: by what to judge the manager's evidence; without it, what the pin requires.

    Raises:
        EvidenceError: ``manager.unproven`` where the pin requires evidence and names no device;
            else as :func:`svetovid.stakeholder.proving.prove_manager`.
    """
    pin = pinned_manager(who.home)
    required = pinned_demand(who.home)
    demand = demand or required
    with connect(who, register=False) as client:
        found, why = None, ""
        if pin.device is None and required is None:
            why = "its pin names no device that could prove anything"
        elif demand is None:
            why = "it was not asked to prove anything: give anchors and reference values"
        else:
            found = _proof(who, pin, demand, client)
        return ManagerClaims(client.manager, client.channel, client.status(), found, why)


def _proof(
    who: Stakeholder, pin: ManagerPin, demand: ManagerDemand, client: ManagerClient
) -> Appraisal:
    if pin.device is None:
        raise EvidenceError(
            "manager.unproven",
            expected="a manager that proves what it runs, as the pin requires",
            observed="a pin that names no device",
            next_step="have the manager served with --tpm, and pin its new manager.json; "
            "or pin it again with --trust-unproven",
        )
    return prove_manager(client, who.identity, pin.device, demand, time.time)


def _satisfied(who: Stakeholder, pin: ManagerPin, client: ManagerClient) -> None:
    """Before a key is uploaded: whatever the pin requires must be proven, over this channel."""
    demand = pinned_demand(who.home)
    if demand is not None:
        _proof(who, pin, demand, client)


def announce(who: Stakeholder, rotation: Envelope) -> bool:
    """Tell the manager of a rotation; False where none is pinned, so that nobody was told."""
    if not who.home.manager.is_file():
        return False
    with connect(who, register=False) as client:
        client.rotate(rotation)
    return True


def hand_over(who: Stakeholder, now: int) -> tuple[Stakeholder, bool]:
    """Rotate the identity and tell the manager, where one is pinned.

    The manager is asked first: where it cannot be reached, nothing changes.

    Returns:
        The stakeholder with its new identity, and whether a manager was told.
    """
    if who.home.manager.is_file():
        connect(who).close()
    fresh, statement = rotate(who, now)
    return fresh, announce(fresh, statement)


def revoke_key(who: Stakeholder, key: KeyId, why: str, now: int) -> KeyId:
    """End this identity for good, by revoking ``key``: the current one, or one that it had before.

    Nothing that any of its keys owns is released any more. It is signed by ``key`` itself and by
    the current key, so that it counts also where a thief has named another successor; then ``key``
    must be one that the manager knows.

    Args:
        who: whose key it is, or was.
        key: its id.
        why: for people.
        now: Unix seconds.

    Raises:
        InputError: ``key.not_ours``, ``manager.unpinned``.
        RefusalError: ``identity.unknown`` where the manager never heard of ``key``.
    """
    statement = Revocation(key=key, why=why, issued_at=now)
    signers = {k: who.identity_of(k) for k in (key, who.key_id)}
    with connect(who, register=False) as client:
        with suppress(RefusalError, InputError):
            _introduce(who, client)
        client.revoke(sign(statement, *signers.values()))
    return key


def status(who: Stakeholder, job: str) -> JobStatus:
    """Where job ``job`` (its digest) stands, for those whose job it is."""
    with connect(who) as client:
        return client.job(job)


def records(who: Stakeholder, *, first: int = 0) -> list[Record]:
    """The manager's records from ``first`` on that this stakeholder may read, reasons in full.

    Records of other parties' decisions are left out; their hashes still stand in the log.
    """
    found: list[Record] = []
    with connect(who) as client:
        while True:
            page = client.records(first, 1000)
            found += [r for r in page.records if r.entry is not None]
            if not page.records or page.records[-1].index + 1 >= page.size:
                return found
            first = page.records[-1].index + 1
