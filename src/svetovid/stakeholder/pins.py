"""Which manager a stakeholder trusts: pinned from a file, never on first use (T1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svetovid.crypto import Digest, canonical
from svetovid.crypto.private import write_private
from svetovid.errors import InputError, IntegrityError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.protocol import ManagerDemand, ManagerPin
from svetovid.stakeholder.home import Home, read_bounded
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.names import read_document

__all__ = [
    "check_pin",
    "hold_pin",
    "pin_manager",
    "pinned_demand",
    "pinned_manager",
    "read_demand",
    "read_pin",
]

MAX_PIN_BYTES = 64 << 10
_MAX_DEMAND_BYTES = 16 << 20


def read_pin(path: Path) -> ManagerPin:
    """A manager's pin from a file, its card verified.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    pin = ManagerPin.parse(
        read_bounded(path, MAX_PIN_BYTES, what="a manager's pin"), max_bytes=MAX_PIN_BYTES
    )
    pin.open()
    return pin


def read_demand(anchors: Path, references: Sequence[Path]) -> ManagerDemand:
    """By what a manager's own evidence is to be judged, from files.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    return ManagerDemand(
        anchors=read_document(anchors, TrustAnchors),
        references=tuple(read_document(path, ReferenceValues) for path in references),
    )


def pin_manager(
    who: Stakeholder,
    pin_file: Path,
    *,
    demand: ManagerDemand | None = None,
    trust_unproven: bool = False,
) -> ManagerPin:
    """Pin a manager from a file that came out of band; never from the network (T1).

    A pin of the same manager may be renewed (another address, certificate or device); one of
    another manager is refused while the first stands.

    Args:
        who: whose pin.
        pin_file: the manager's own file.
        demand: from now on, upload no key unless the manager proves this (``require_evidence``).
        trust_unproven: give up what was demanded before; else it stays over a renewal.

    Raises:
        InputError: ``manager.pinned`` where another manager is pinned.
    """
    given = read_pin(pin_file)
    required = check_pin(who.home, given)
    if demand is not None:  # first: a pin must never ask for a demand that is not there
        write_private(who.home.demand, demand.canonical())
        required = demand.digest()
    return _keep(who.home, given, None if demand is None and trust_unproven else required)


def check_pin(home: Home, given: ManagerPin) -> Digest | None:
    """See that no other manager is pinned; the demand that stays with a renewed pin.

    Raises:
        InputError: ``manager.pinned``; ``file.*``, ``json.*``, ``document.invalid`` for a pin in
            the way that cannot be read.
        IntegrityError: ``signature.*``, in the same way.
    """
    if not home.manager.exists():
        return None
    held = read_pin(home.manager)
    before, after = held.open().signing, given.open().signing
    if before != after:
        raise InputError(
            "manager.pinned",
            expected=before,
            observed=after,
            next_step=f"remove {home.manager} by hand if the change is meant",
        )
    return held.require_evidence


def hold_pin(home: Home, given: ManagerPin) -> ManagerPin:
    """Keep a manager's pin, the first of this home or one of the same manager.

    Raises:
        InputError, IntegrityError: of :func:`check_pin`.
    """
    return _keep(home, given, check_pin(home, given))


def _keep(home: Home, given: ManagerPin, required: Digest | None) -> ManagerPin:
    """With what this home demands of the manager and nobody else does."""
    pin = given.model_copy(update={"require_evidence": required})
    write_private(home.manager, canonical(pin.to_json()))
    return pin


def pinned_demand(home: Home) -> ManagerDemand | None:
    """What the manager must prove before it gets a key; None where it need not prove anything.

    Raises:
        InputError, IntegrityError: ``manager.unpinned``, ``file.*``, ``json.*``,
            ``document.invalid``; ``manager.demand`` where the file is not what the pin names.
    """
    required = pinned_manager(home).require_evidence
    if required is None:
        return None
    data = read_bounded(home.demand, _MAX_DEMAND_BYTES, what="what the manager must prove")
    demand = ManagerDemand.parse(data, max_bytes=_MAX_DEMAND_BYTES)
    if demand.digest() != required:
        raise IntegrityError(
            "manager.demand",
            expected=required,
            observed=demand.digest(),
            next_step="pin the manager again, with --require-evidence",
        )
    return demand


def pinned_manager(home: Home) -> ManagerPin:
    """The manager that was pinned in this home.

    Raises:
        InputError: ``manager.unpinned``.
    """
    if not home.manager.is_file():
        raise InputError(
            "manager.unpinned",
            expected=f"a pinned manager in {home.path}",
            observed="none",
            next_step="get manager.json from the manager by a way you trust, "
            "then: svetovid manager pin FILE",
        )
    return read_pin(home.manager)
