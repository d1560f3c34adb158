"""A new stakeholder: a home with an identity in it, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from svetovid.crypto import Identity, Secret, keystore
from svetovid.crypto.private import check_private, write_private
from svetovid.errors import InputError, ParseError, SvetovidError
from svetovid.protocol import ManagerPin
from svetovid.stakeholder.home import Home, make_private, make_public, read_bounded
from svetovid.stakeholder.identity import Stakeholder, name_taken, published, write_card
from svetovid.stakeholder.pins import MAX_PIN_BYTES, check_pin, hold_pin

__all__ = ["check_new", "create"]


def check_new(
    names: Sequence[str], parent: Path, public: Path, *, pin: ManagerPin | None = None
) -> None:
    """See that homes could be made in ``parent`` and cards published, before the first is.

    Args:
        names: of the homes.
        parent: folder that the homes go into.
        public: folder that the cards go into.
        pin: of the manager that all of them are to trust.

    Raises:
        InputError: ``key.exists``, ``names.taken``, ``manager.pinned``, ``home.folder``,
            ``home.mode``; ``file.*``, ``json.*``, ``document.invalid`` for a card or a pin in the
            way that cannot be read.
        ParseError: ``name.invalid``.
        HostError: ``file.write`` where there is no public folder and none can be made.
    """
    for name in names:
        _check_name(name)
        _check_free(Home(parent / name), pin)
        there = published(public, name)
        if there is not None or names.count(name) > 1:
            raise name_taken(name, public, there or "the same name twice")
    make_public(public)


def create(
    home: Path, name: str, passphrase: Secret, *, pin: ManagerPin | None = None
) -> Stakeholder:
    """Make a home (0700) with a fresh identity in it, sealed under ``passphrase``.

    The identity is written last: a home without one is none, and can be made again. What lies there
    already is of use again (the pin of this very manager, with what was demanded of it), and stays
    as it is where the home cannot be made.

    Args:
        home: a new folder, or one that is its maker's alone.
        name: the identity's.
        passphrase: not empty.
        pin: of the manager to trust, which came out of band (T1).

    Raises:
        InputError: ``key.exists``, ``key.passphrase``, ``manager.pinned``, ``home.folder``,
            ``home.mode``; ``file.*`` for a card in the way that cannot be read, and those of
            :func:`check_pin`.
        ParseError: ``name.invalid``.
        HostError: ``file.write``.
    """
    _check_name(name)
    place = Home(home)
    _check_free(place, pin)
    identity = Identity.generate(name)
    folders = [f for f in (*place.folders, home) if not f.exists()]
    files = {f: _there(f) for f in (place.card, place.manager)}
    try:
        for folder in (home, *place.folders):
            make_private(folder)
        write_card(identity, place.card)
        if pin is not None:
            hold_pin(place, pin)
        keystore.save(identity, place.identity, passphrase)
    except BaseException:
        _unmake(place, folders, files)
        raise
    return Stakeholder(place, identity, passphrase)


def _check_free(place: Home, pin: ManagerPin | None) -> None:
    try:
        check_private(place.path)
    except FileNotFoundError:
        return
    except OSError as e:
        raise InputError(
            "home.folder",
            expected=f"a folder at {place.path}",
            observed=e.strerror,
            next_step="choose another --in",
        ) from e
    if place.identity.exists():
        raise InputError(
            "key.exists",
            expected=f"no identity in {place.path} yet",
            observed=str(place.identity),
            next_step="choose another name; or, if this home is to be used: svetovid manager pin "
            f"FILE --home {place.path}",
        )
    if pin is not None:
        check_pin(place, pin)


def _there(file: Path) -> bytes | None:
    return read_bounded(file, MAX_PIN_BYTES, what="a file of a home") if file.exists() else None


def _unmake(place: Home, folders: Sequence[Path], files: Mapping[Path, bytes | None]) -> None:
    """Take back what was made: these folders, and files that were not there, or said this."""
    if place.identity.exists():
        return
    for file, before in files.items():
        with suppress(OSError, SvetovidError):
            if before is None:
                file.unlink()
            elif file.read_bytes() != before:
                write_private(file, before)
                file.chmod(0o644 if file == place.card else 0o600)
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise ParseError(
            "name.invalid",
            expected="a name of lower case letters, digits, dots, dashes and underscores",
            observed=name,
            next_step="choose a name that cannot be mistaken for another",
        )
