"""Speaking with the pinned manager, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from svetovid.crypto import Envelope, KeyId
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.messages import JobStatus, ManagerStatus
from svetovid.protocol.records import Record
from svetovid.protocol.seen import SeenFile
from svetovid.stakeholder.identity import Stakeholder, rotate
from svetovid.stakeholder.pins import pinned_manager

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
        status: what it says of itself, signed; nothing here is proven by hardware.
    """

    key: KeyId
    channel: str
    status: ManagerStatus

    @property
    def verdict(self) -> str:
        """The line that people read before they upload a key (T1)."""
        return f"manager: {self.status.trust}"


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
    client = ManagerClient(
        pinned_manager(who.home), who.identity, seen=SeenFile(who.home.seen), transport=transport
    )
    if register:
        try:
            client.register_identity(who.identity.signed_card())
        except BaseException:
            client.close()
            raise
    return client


def verify_manager(who: Stakeholder) -> ManagerClaims:
    """Check that the manager behind the pinned address is the pinned one, and what it claims.

    A manager without evidence of its own is trusted and not proven; the verdict says so (T1).
    """
    with connect(who, register=False) as client:
        return ManagerClaims(client.manager, client.channel, client.status())


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
    """End ``key`` for good: the current key, or one that this identity had before.

    Raises:
        InputError: ``key.not_ours``, ``manager.unpinned``.
    """
    who.identity_of(key)
    with connect(who, register=False) as client:
        client.revoke(who.identity.revoke(key, why, now))
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
