"""UEFI variables as they are measured into PCR 7, and what they prove of Secure Boot.

A variable event's data is UEFI_VARIABLE_DATA (PFP 1.06, section 10.4.3), and its digest is that of
the whole of it, so name and value are proven by the digest alone; the event's type is not looked
at. (The boot variables in PCR 1 are digests of the value only: their names prove nothing.)

Secure Boot counts as enabled where the log of PCR 7 can mean nothing else: before the separator
the ``SecureBoot`` variable stands once and is 1, PK and KEK hold keys, and every event is the
digest of its data; after it, when the firmware has let other code run, none of these names stands
again. The firmware's own "debug mode" and "DMA protection disabled" undo it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.evidence.boot.log import BANKS, SEPARATORS, BootEvent, hash_data

__all__ = ["SecureBoot", "Variable", "parse_variable", "secure_boot"]

_HEAD = struct.Struct("<16sQQ")
_GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
"""EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c."""
_WEAKENED = (b"UEFI Debug Mode", b"DMA Protection Disabled")
_STATE = ("SecureBoot", "PK", "KEK")


@dataclass(frozen=True, slots=True)
class Variable:
    """Vendor GUID as it lies in memory, name, value."""

    vendor: bytes
    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class SecureBoot:
    """Whether Secure Boot is proven, and if not, why.

    Attributes:
        authorities: names of the variables measured after the separator, in order: what vouched
            for the images, for example ``db``, ``SbatLevel``, ``vendor_db``.
    """

    enabled: bool
    why: str
    authorities: tuple[str, ...] = ()


def parse_variable(data: bytes) -> Variable | None:
    """UEFI_VARIABLE_DATA that fills ``data``; None for anything else."""
    if len(data) < _HEAD.size:
        return None
    vendor, characters, size = _HEAD.unpack_from(data)
    split = _HEAD.size + 2 * characters
    if split + size != len(data):
        return None
    try:
        name = data[_HEAD.size : split].decode("utf-16-le")
    except UnicodeDecodeError:
        return None
    return Variable(vendor, name, data[split:])


def secure_boot(events: Sequence[BootEvent], bank: str) -> SecureBoot:
    """What the events of PCR 7, already proven by replay, say of Secure Boot.

    Never an error: whatever is odd means "not proven".
    """
    algorithm = BANKS[bank]
    digests = [e.digests[algorithm] for e in events]
    separators = {hash_data(bank, s) for s in SEPARATORS}
    ends = [i for i, d in enumerate(digests) if d in separators]
    if len(ends) != 1:
        return SecureBoot(False, f"{len(ends)} separators in PCR 7")
    for text in _WEAKENED:
        if any(hash_data(bank, t) in digests for t in (text, text + b"\0")):
            return SecureBoot(False, text.decode())
    for event, measured in zip(events, digests, strict=True):
        if measured not in separators and hash_data(bank, event.data) != measured:
            return SecureBoot(False, f"event {event.number} is not what was measured")
    before = [parse_variable(e.data) for e in events[: ends[0]]]
    after = [parse_variable(e.data) for e in events[ends[0] + 1 :]]
    names = tuple(v.name for v in after if v)
    if any(v and v.vendor == _GLOBAL and v.name in _STATE for v in after):
        return SecureBoot(False, "state measured after the separator", names)
    state: dict[str, list[bytes]] = {name: [] for name in _STATE}
    for v in before:
        if v and v.vendor == _GLOBAL and v.name in state:
            state[v.name].append(v.value)
    if state["SecureBoot"] != [b"\1"]:
        return SecureBoot(False, "the SecureBoot variable is not 1, once", names)
    for name in ("PK", "KEK"):
        if len(state[name]) != 1 or not state[name][0]:
            return SecureBoot(False, f"{name} holds no key", names)
    return SecureBoot(True, "SecureBoot is 1, PK and KEK hold keys", names)
