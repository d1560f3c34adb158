"""Whom a manager's administrator lets in: a file in its home, read anew whenever it changes.

It names keys, and how many strangers there is room for. It decides about nobody's keys, policies or
releases: the administrator lends its disk, and has no say in anything else (T2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.crypto import Card, Document, KeyId, Name
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, SvetovidError

__all__ = ["Admitted", "Door", "admit", "door_of"]

MAX_DOOR_BYTES = 4 << 20
_FILE = "door.json"


class Admitted(Document):
    """Somebody who may register, whoever else wants to. The name is for people to read."""

    name: Name
    key: KeyId


class Door(Document):
    """Who may register with a manager.

    Attributes:
        admitted: named by the administrator.
        strangers: how many others there is room for; 0 closes the door to them.
    """

    TYPE: ClassVar[str] = "manager-door"
    admitted: Annotated[tuple[Admitted, ...], Field(max_length=10_000)] = ()
    strangers: Annotated[int, Field(ge=0, le=10_000)] = 64

    @property
    def keys(self) -> frozenset[str]:
        """Ids of the keys that are let in."""
        return frozenset(a.key for a in self.admitted)


def door_of(home: Path) -> Callable[[], Door]:
    """The door of the manager in ``home``, as it stands at each call.

    What it gives raises:
        HostError: ``door.file`` where the file is not as :func:`admit` wrote it. Then nobody is let
            in and nothing more is taken, until it is mended.
    """
    path = home / _FILE
    seen: tuple[int, int, int] | None = None
    door = Door()

    def now() -> Door:
        nonlocal seen, door
        try:
            stat = path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if mark != seen:
                door, seen = _read(path), mark
        except FileNotFoundError:
            door, seen = Door(), None
        except OSError as e:
            raise _broken(path, e.strerror or "unreadable") from e
        return door

    return now


def admit(home: Path, cards: Iterable[Card], strangers: int | None = None) -> Door:
    """Let the keys of ``cards`` in, for good, and set how many strangers there is room for.

    A manager that runs takes it in by itself.

    Args:
        home: the manager's.
        cards: whose keys are let in.
        strangers: how many others may make themselves known; None leaves it as it is.

    Raises:
        HostError: ``door.file``. InputError: ``document.invalid``, ``file.write``.
    """
    door = door_of(home)()
    named = {a.key: a for a in door.admitted}
    named |= {c.signing: Admitted(name=c.name, key=c.signing) for c in cards}
    fields = {
        "admitted": [a.to_json() for a in named.values()],
        "strangers": door.strangers if strangers is None else strangers,
    }
    changed = Door.from_json(fields)
    write_private(home / _FILE, changed.canonical())
    return changed


def _read(path: Path) -> Door:
    with path.open("rb") as f:
        data = f.read(MAX_DOOR_BYTES + 1)
    try:
        return Door.parse(data, max_bytes=MAX_DOOR_BYTES)
    except SvetovidError as e:
        raise _broken(path, e.code) from e


def _broken(path: Path, observed: str) -> HostError:
    return HostError(
        "door.file",
        expected=f"{path} as it was written",
        observed=observed,
        next_step="mend or remove it, then: svetovid manager admit",
    )
