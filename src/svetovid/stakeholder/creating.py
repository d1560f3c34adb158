"""A new stakeholder: a home with an identity in it, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from svetovid.crypto import Identity, Secret, keystore
from svetovid.crypto.private import check_private, unwritable
from svetovid.errors import InputError, ParseError
from svetovid.protocol import ManagerPin
from svetovid.stakeholder.home import Home, make_private
from svetovid.stakeholder.identity import Stakeholder, name_taken, read_card, write_card
from svetovid.stakeholder.pins import hold_pin

__all__ = ["check_new", "create"]


def check_new(names: Sequence[str], parent: Path, public: Path) -> None:
    """See that homes could be made in ``parent`` and cards published, before the first is.

    Args:
        names: of the homes.
        parent: folder that the homes go into.
        public: folder that the cards go into.

    Raises:
        InputError: ``key.exists``, ``names.taken``, ``home.folder``, ``home.mode``; ``file.*``,
            ``json.*``, ``document.invalid`` for a card in the way that cannot be read.
        ParseError: ``name.invalid``.
        HostError: ``file.write`` where there is no public folder and none can be made.
    """
    for name in names:
        _check_name(name)
        _check_free(Home(parent / name))
        card = public / f"{name}.card.json"
        if card.exists() or names.count(name) > 1:
            there = read_card(card).signing if card.exists() else "the same name twice"
            raise name_taken(name, public, there)
    try:
        public.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise unwritable(e, f"a folder {public}", "choose another one with --public") from e


def create(
    home: Path, name: str, passphrase: Secret, *, pin: ManagerPin | None = None
) -> Stakeholder:
    """Make a home (0700) with a fresh identity in it, sealed under ``passphrase``.

    The identity is written last: a home without one is none, and can be made again.

    Args:
        home: a new folder, or one that is its maker's alone.
        name: the identity's.
        passphrase: not empty.
        pin: of the manager to trust, which came out of band (T1).

    Raises:
        InputError: ``key.exists``, ``key.passphrase``, ``home.folder``, ``home.mode``.
        ParseError: ``name.invalid``.
        HostError: ``file.write``.
    """
    _check_name(name)
    place, new = Home(home), not home.exists()
    _check_free(place)
    identity = Identity.generate(name)
    try:
        for folder in (home, *place.folders):
            make_private(folder)
        write_card(identity, place.card)
        if pin is not None:
            hold_pin(place, pin)
        keystore.save(identity, place.identity, passphrase)
    except BaseException:
        _unmake(place, new=new)
        raise
    return Stakeholder(place, identity, passphrase)


def _check_free(place: Home) -> None:
    if place.identity.exists():
        raise InputError(
            "key.exists",
            expected=f"no identity in {place.path} yet",
            observed=str(place.identity),
            next_step="choose another name; or, if this home is to be used: svetovid manager pin "
            f"FILE --home {place.path}",
        )
    with suppress(FileNotFoundError):
        try:
            check_private(place.path)
        except NotADirectoryError as e:
            raise InputError(
                "home.folder",
                expected=f"a folder at {place.path}",
                observed=e.strerror,
                next_step="choose another --in",
            ) from e


def _unmake(place: Home, *, new: bool) -> None:
    """Take back what was made; what lay there before stays."""
    if place.identity.exists():
        return
    for file in (place.card, place.manager):
        with suppress(OSError):
            file.unlink()
    for folder in (*place.folders, *([place.path] if new else [])):
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
