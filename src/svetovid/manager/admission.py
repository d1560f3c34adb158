"""Who may register with a manager, and how much each may leave there.

Rules:

1. The administrator admits keys (:mod:`svetovid.manager.door`). They may always register.
2. Everybody else is a stranger. There is room for a few strangers, from each address for fewer
   still in an hour; with room for none, the door is closed to them.
3. A stranger may keep less than somebody who was admitted. What is kept is counted for a whole
   history of keys: a rotation gives no new room.
4. What the leases of a stranger's hosts come to in the log has as much room again, and is counted
   as who runs the host. There is no bound where that one, or the job's proposer, was admitted: then
   somebody whom the administrator knows asked for it. The end of a lease is always recorded, once;
   past the bound without what owners alone would be told of it.
5. Nothing that strangers do takes room from those who were admitted.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Callable

from svetovid.crypto import Envelope
from svetovid.errors import LimitError
from svetovid.manager.core import Bounds, Core
from svetovid.manager.door import Door
from svetovid.manager.state import State

__all__ = ["Admission"]

_HOUR_S = 3600
_MAX_SOURCES = 4096


class Admission:
    """Holds newcomers, and what is kept for everybody, against the manager's bounds.

    Args:
        door: whom the administrator lets in, as it stands now.
    """

    def __init__(self, core: Core, door: Callable[[], Door]) -> None:
        self._core = core
        self._door = door
        self._lock = threading.Lock()
        self._sources: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def newcomer(self, state: State, key: str, source: str) -> None:
        """Let ``key``, which is nobody's yet, register from address ``source``, or refuse.

        Raises:
            LimitError: ``identity.strangers``, ``identity.rate``.
        """
        door = self._door()
        if key in door.keys:
            return
        here = sum(door.keys.isdisjoint(h.keys) for h in state.histories.values())
        if here >= door.strangers:
            raise LimitError(
                "identity.strangers",
                expected=f"a key that was admitted, or one of {door.strangers} others",
                observed=key,
                next_step="give your card to this manager's administrator: svetovid manager admit",
            )
        self._slowly(_network(source))

    def room(self, state: State, key: str, envelope: Envelope) -> int:
        """Refuse what would be too much to keep for the party of ``key``; else its size in bytes.

        Raises:
            LimitError: ``store.quota``.
        """
        root, bounds = state.root(key), self.bounds(state, key)
        size = len(envelope.canonical())
        have = (state.kept[root], state.kept_bytes[root])
        if have[0] >= bounds.documents or have[1] + size > bounds.bytes:
            raise LimitError(
                "store.quota",
                expected=f"at most {bounds.documents} documents and {bounds.bytes} bytes",
                observed=f"{have[0]} and {have[1]} are kept, {size} bytes more were sent",
                next_step="ask this manager's administrator for more room: svetovid manager admit",
            )
        return size

    def lease_room(self, state: State, host: str, job: str) -> None:
        """Refuse one more entry for a lease of ``job`` on ``host``, where that would be too much.

        Raises:
            LimitError: ``store.quota``.
        """
        if not self.lease_fits(state, host, job, count=1):
            bounds, root = self._core.settings.stranger, state.root(state.hosts[host].operator)
            raise LimitError(
                "store.quota",
                expected=f"at most {bounds.documents} entries and {bounds.bytes} bytes for leases",
                observed=f"{state.leased[root]} and {state.leased_bytes[root]} are kept",
                next_step="ask this manager's administrator to admit the host's operator, or the"
                " job's proposer: svetovid manager admit",
            )

    def lease_fits(
        self, state: State, host: str, job: str, *, count: int = 0, size: int = 0
    ) -> bool:
        """Whether so many entries and bytes more of leases of ``job`` on ``host`` may be kept."""
        operator, bounds = state.hosts[host].operator, self._core.settings.stranger
        root = state.root(operator)
        few = state.leased[root] + count <= bounds.documents
        if few and state.leased_bytes[root] + size < bounds.bytes:
            return True
        return any(self.admitted(state, k) for k in (operator, state.jobs[job].proposer))

    def bounds(self, state: State, key: str) -> Bounds:
        """How much may be kept for the party of ``key``."""
        settings = self._core.settings
        return settings.admitted if self.admitted(state, key) else settings.stranger

    def admitted(self, state: State, key: str) -> bool:
        """Whether the administrator let the party of ``key`` in."""
        history = state.histories.get(state.root(key))
        keys = (key,) if history is None else history.keys
        return not self._door().keys.isdisjoint(keys)

    def _slowly(self, network: str) -> None:
        now, most = self._core.now(), self._core.settings.strangers_hourly
        with self._lock:
            since, count = self._sources.pop(network, (now, 0))
            if not since <= now < since + _HOUR_S:
                since, count = now, 0
            self._sources[network] = (since, min(count + 1, most))
            while len(self._sources) > _MAX_SOURCES:
                self._sources.popitem(last=False)
        if count >= most:
            raise LimitError(
                "identity.rate",
                expected=f"at most {most} new strangers an hour from one address",
                observed=network or "an unknown address",
                next_step="try again later, or give your card to this manager's administrator",
            )


def _network(address: str) -> str:
    """What one stranger is likely to have for itself: an IPv4 address, or an IPv6 /64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
