"""The root key: what protects a manager's keys at rest, and what protects the root key.

Asset keys, checkpoint keys and the manager's own identity are sealed under one 32-byte root key.
The root key itself is sealed by a :class:`RootSealer`: a passphrase, or a TPM where there is one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field

from svetovid.crypto import Base64, Document, Secret, b64decode, b64encode, canonical
from svetovid.crypto.private import write_private
from svetovid.errors import InputError, IntegrityError

__all__ = ["PassphraseSealer", "RootKey", "RootSealer", "open_root_key"]

_NONCE = 12
_AAD = b"svetovid root key v1"
_MAX_FILE = 64 << 10


class RootSealer(Protocol):
    """What holds the root key, and counts where it can.

    ``increment`` and ``counter`` are a monotonic counter that no restored backup turns back (T15);
    ``counter`` is None where there is none.
    """

    @property
    def kind(self) -> Literal["passphrase", "tpm"]:
        """What it is, in the words of a manager's status."""
        ...

    def seal(self, secret: Secret) -> bytes:
        """Bytes from which nobody else has ``secret`` back."""
        ...

    def unseal(self, blob: bytes) -> Secret:
        """What was sealed.

        Raises:
            IntegrityError: ``key.passphrase``, ``store.tamper``.
        """
        ...

    def counter(self) -> int | None:
        """What the monotonic counter stands at; None where there is none."""
        ...

    def increment(self) -> int:
        """Add one to the counter; the new value.

        Raises:
            InputError: ``store.counter`` where there is none.
        """
        ...


class _Sealed(Document):
    memory_kib: Annotated[int, Field(ge=19 << 10, le=1 << 20)]
    passes: Annotated[int, Field(ge=1, le=16)]
    lanes: Annotated[int, Field(ge=1, le=16)]
    salt: Base64
    sealed: Base64


class PassphraseSealer:
    """Argon2id (RFC 9106, second recommended option) and AES-256-GCM; no counter.

    Raises:
        InputError: ``key.passphrase`` for an empty passphrase.
    """

    kind: Literal["passphrase"] = "passphrase"

    def __init__(self, passphrase: Secret) -> None:
        if not len(passphrase):
            raise InputError(
                "key.passphrase",
                expected="a passphrase",
                observed="an empty one",
                next_step="give the passphrase that the key was saved with; it is never empty",
            )
        self._passphrase = passphrase

    def _key(self, p: _Sealed) -> AESGCM:
        kdf = Argon2id(
            salt=b64decode(p.salt),
            length=32,
            iterations=p.passes,
            lanes=p.lanes,
            memory_cost=p.memory_kib,
        )
        return AESGCM(kdf.derive(self._passphrase.reveal()))

    def seal(self, secret: Secret) -> bytes:
        """Argon2id (RFC 9106) over the passphrase, AES-256-GCM under the key that it gives."""
        parameters = _Sealed(
            memory_kib=64 << 10,
            passes=3,
            lanes=4,
            salt=b64encode(secrets.token_bytes(16)),
            sealed="",
        )
        nonce = secrets.token_bytes(_NONCE)
        box = nonce + self._key(parameters).encrypt(nonce, secret.reveal(), _AAD)
        return parameters.model_copy(update={"sealed": b64encode(box)}).canonical()

    def unseal(self, blob: bytes) -> Secret:
        """What was sealed.

        Raises:
            IntegrityError: ``key.passphrase``.
        """
        p = _Sealed.parse(blob, max_bytes=_MAX_FILE)
        box = b64decode(p.sealed)
        try:
            return Secret(self._key(p).decrypt(box[:_NONCE], box[_NONCE:], _AAD))
        except (InvalidTag, ValueError) as e:
            raise IntegrityError(
                "key.passphrase",
                expected="the passphrase this manager was created under",
                next_step="try again, or restore the manager's home from a backup",
            ) from e

    def counter(self) -> int | None:
        """None: a passphrase counts nothing."""
        return None

    def increment(self) -> int:
        """Raises InputError ``store.counter``: a passphrase counts nothing."""
        raise InputError(
            "store.counter",
            expected="a TPM",
            observed="a passphrase only",
            next_step="start the manager with a TPM, or without a counter",
        )


class RootKey:
    """Seals a manager's secrets at rest: AES-256-GCM, each bound to what it is."""

    LENGTH: ClassVar[int] = 32

    def __init__(self, key: Secret) -> None:
        self._key = key
        self._box = AESGCM(self.derive("at rest").reveal())

    def derive(self, purpose: str) -> Secret:
        """A key of its own for one purpose (HKDF-SHA256, RFC 5869)."""
        info = b"svetovid manager " + purpose.encode("ascii")
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
        return Secret(kdf.derive(self._key.reveal()))

    def seal(self, secret: Secret, what: Mapping[str, str]) -> bytes:
        """``secret``, bound to ``what`` it is: another entry's bytes do not open in its place."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._box.encrypt(nonce, secret.reveal(), canonical(dict(what)))

    def open(self, box: bytes, what: Mapping[str, str]) -> Secret:
        """Raises IntegrityError ``store.tamper`` for altered bytes, or another's."""
        try:
            return Secret(self._box.decrypt(box[:_NONCE], box[_NONCE:], canonical(dict(what))))
        except (InvalidTag, ValueError) as e:
            raise IntegrityError(
                "store.tamper",
                expected=f"a key sealed for {what.get('label', 'this')}",
                observed="altered bytes or another key's",
                next_step="restore the manager's store from a backup",
            ) from e


def open_root_key(path: Path, sealer: RootSealer) -> RootKey:
    """The root key at ``path``; made and sealed at the first start.

    Raises:
        InputError: ``key.file``.
        IntegrityError: ``key.passphrase`` (or what the TPM says).
    """
    if not path.exists():
        key = Secret.random(RootKey.LENGTH)
        write_private(path, sealer.seal(key))
        return RootKey(key)
    try:
        blob = path.read_bytes()
    except OSError as e:
        raise InputError(
            "key.file",
            expected=f"a root key at {path}",
            observed=str(e),
            next_step="restore root.key from a backup: without it no held key can be opened",
        ) from e
    return RootKey(sealer.unseal(blob))
