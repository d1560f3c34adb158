"""Who a stakeholder is: an identity in a home folder, its rotation and its revocation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from svetovid.crypto import (
    Card,
    Envelope,
    Identity,
    KeyId,
    Rotation,
    Secret,
    canonical,
    keystore,
)
from svetovid.crypto.hpke import ReceivingKey
from svetovid.crypto.private import write_private
from svetovid.errors import InputError
from svetovid.stakeholder.home import Home, make_private, make_public, no_public, read_bounded
from svetovid.stakeholder.names import naming

if TYPE_CHECKING:
    import httpx

__all__ = ["Stakeholder", "load", "publish_card", "read_card", "rotate", "rotations"]

MAX_CARD_BYTES = 16 << 10


class Stakeholder:
    """An owner, operator or recipient who is present: its home and its opened identity.

    Attributes:
        home: where its files lie.
        identity: the current signing and receiving keys.
        transport: makes another way to the manager than its pinned channel (managers in process).
    """

    def __init__(
        self,
        home: Home,
        identity: Identity,
        passphrase: Secret,
        *,
        transport: Callable[[], httpx.BaseTransport] | None = None,
    ) -> None:
        self.home = home
        self.identity = identity
        self.transport = transport
        self._passphrase = passphrase

    @property
    def key_id(self) -> KeyId:
        """Its current key."""
        return self.identity.key_id

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.identity.name

    def has_been(self, key_id: KeyId) -> bool:
        """Whether this is the current key, or one that this identity had before."""
        return key_id == self.key_id or self._retired(key_id).is_file()

    def _retired(self, key_id: KeyId) -> Path:
        return self.home.retired / f"{_hex(key_id)}.json"

    def receiving_key(self, key_id: KeyId) -> ReceivingKey:
        """The key to open what was sealed to ``key_id``: this identity, or one it had before.

        Raises:
            InputError: ``key.not_ours``.
        """
        return self.identity_of(key_id).receiving

    def identity_of(self, key_id: KeyId) -> Identity:
        """The identity with this signing key: the current one, or a retired one.

        Raises:
            InputError: ``key.not_ours``.
        """
        if key_id == self.key_id:
            return self.identity
        path = self._retired(key_id)
        if not path.is_file():
            raise InputError(
                "key.not_ours",
                expected=f"the identity {key_id}",
                observed=f"{self.name} has never had it",
                next_step="use the --home of the stakeholder that is named",
            )
        return keystore.load(path, self._passphrase)

    def __repr__(self) -> str:
        return f"<Stakeholder {self.name} {self.key_id}>"


def load(home: Path, passphrase: Secret) -> Stakeholder:
    """Open an existing home.

    Raises:
        InputError: ``key.file``, ``home.folder``, ``home.mode``.
        IntegrityError: ``key.passphrase``.
    """
    place = Home(home)
    if not os.path.isdir(home):  # noqa: PTH112 - also for a name that no folder can have
        raise InputError(
            "home.folder",
            expected=f"a home at {home}",
            observed="no such folder",
            next_step="svetovid identity create NAME",
        )
    for folder in (home, *place.folders):
        make_private(folder)
    with naming(place.identity):
        identity = keystore.load(place.identity, passphrase)
    if not place.card.is_file() or read_card(place.card).signing != identity.key_id:
        write_card(identity, place.card)  # a rotation was cut off before its last step
    return Stakeholder(place, identity, passphrase)


def rotate(who: Stakeholder, now: int) -> tuple[Stakeholder, Envelope]:
    """Replace the identity; the one before stays in ``retired/`` to open what was agreed.

    The home holds a working identity at every moment, also when this is cut off half way.

    Returns:
        The stakeholder with its new identity, and the rotation that both keys signed.
    """
    home = who.home
    fresh, statement = who.identity.rotate(now)
    home.next_identity.unlink(missing_ok=True)
    keystore.save(fresh, home.next_identity, who._passphrase)
    old = home.retired / f"{_hex(who.key_id)}.json"
    if not old.exists():
        os.link(home.identity, old)
    write_private(
        home.retired / f"{_hex(fresh.key_id)}.rotation.json",
        canonical(statement.to_json()),
    )
    home.next_identity.replace(home.identity)
    write_card(fresh, home.card)
    return Stakeholder(home, fresh, who._passphrase, transport=who.transport), statement


def rotations(home: Home, owner: KeyId | None = None) -> tuple[Envelope, ...]:
    """How this home came to its key: from ``owner``, a key it had, or from its first; oldest first.

    Raises:
        InputError: ``key.not_ours`` where nothing leads from ``owner``; ``file.*``, ``json.*``.
    """
    chain: list[Envelope] = []
    key = read_card(home.card).signing
    while key != owner:
        path = home.retired / f"{_hex(key)}.rotation.json"
        if not path.is_file():
            break
        data = read_bounded(path, MAX_CARD_BYTES, what="a rotation")
        chain.append(Envelope.parse(data, max_bytes=MAX_CARD_BYTES))
        key = chain[-1].peek(Rotation).old
    if owner not in (None, key):
        raise InputError(
            "key.not_ours",
            expected=f"a rotation from {owner}",
            observed=f"the keys of {home.path} begin with {key}",
            next_step="use the --home of the stakeholder that is named",
        )
    return tuple(reversed(chain))


def publish_card(who: Stakeholder, public: Path) -> Path:
    """Put the card into a public folder, as ``NAME.card.json``.

    Raises:
        InputError: ``names.taken`` where another party's card stands there.
        HostError: ``file.write``.
    """
    path = public / f"{who.name}.card.json"
    there = published(public, who.name)
    if there is not None and not who.has_been(there):
        raise name_taken(who.name, public, there)
    make_public(public)
    write_card(who.identity, path)
    return path


def published(public: Path, name: str) -> KeyId | None:
    """The key in the card that stands in ``public`` under this name.

    Raises:
        HostError: ``file.write`` where there can be no such folder.
        InputError, IntegrityError: of :func:`read_card`.
    """
    path = public / f"{name}.card.json"
    try:
        there = path.exists()
    except OSError as e:
        raise no_public(e, public) from e
    return read_card(path).signing if there else None


def name_taken(name: str, public: Path, key: KeyId) -> InputError:
    return InputError(
        "names.taken",
        expected=f"no other {name} in {public}",
        observed=key,
        next_step="choose another name, or another --public folder",
    )


def write_card(identity: Identity, path: Path) -> None:
    write_private(path, identity.signed_card().canonical())
    path.chmod(0o644)


def _hex(key_id: KeyId) -> str:
    return key_id.removeprefix("ed25519:")


def read_card(path: Path) -> Card:
    """Read and verify a self-signed card. A card says only that its two keys belong together;
    whose they are is what the reader has agreed with that person.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    data = read_bounded(path, MAX_CARD_BYTES, what="a card")
    with naming(path):
        return Card.open(Envelope.parse(data, max_bytes=MAX_CARD_BYTES))
