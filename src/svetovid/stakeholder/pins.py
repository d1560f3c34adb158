"""Which manager a stakeholder trusts: pinned from a file, never on first use (T1)."""

from __future__ import annotations

from pathlib import Path

from svetovid.crypto import canonical, keystore
from svetovid.errors import InputError
from svetovid.protocol import ManagerPin
from svetovid.stakeholder.home import Home, read_bounded
from svetovid.stakeholder.identity import Stakeholder

__all__ = ["pin_manager", "pinned_manager", "read_pin"]

MAX_PIN_BYTES = 64 << 10


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


def pin_manager(who: Stakeholder, pin_file: Path) -> ManagerPin:
    """Pin a manager from a file that came out of band; never from the network (T1).

    A pin of the same manager may be renewed (another address or certificate); one of another
    manager is refused while the first stands.

    Raises:
        InputError: ``manager.pinned`` where another manager is pinned.
    """
    pin = read_pin(pin_file)
    if who.home.manager.exists():
        before, after = read_pin(who.home.manager).open().signing, pin.open().signing
        if before != after:
            raise InputError(
                "manager.pinned",
                expected=before,
                observed=after,
                next_step=f"remove {who.home.manager} by hand if the change is meant",
            )
    keystore.write_private(who.home.manager, canonical(pin.to_json()))
    return pin


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
