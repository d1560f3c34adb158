"""An identity on disk: one file, mode 0600, sealed under a passphrase.

Argon2id (RFC 9106, second recommended option: 64 MiB, 3 passes, 4 lanes) stretches the passphrase,
AES-256-GCM seals the seeds with the file's header as associated data. The file appears whole or not
at all.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from pydantic import Field

from svetovid.crypto.canonical import Base64, Document, KeyId, Name, b64decode, b64encode, canonical
from svetovid.crypto.hpke import ReceivingKey
from svetovid.crypto.identity import Identity
from svetovid.crypto.private import write_private
from svetovid.crypto.secret import Secret
from svetovid.errors import InputError, IntegrityError

__all__ = ["load", "save"]

_MAX_FILE = 16 << 10


class _Header(Document):
    version: Literal["svetovid.keystore/v1"]
    name: Name
    signing: KeyId
    kdf: Literal["argon2id"]
    memory_kib: Annotated[int, Field(ge=19 << 10, le=1 << 20)]
    passes: Annotated[int, Field(ge=1, le=16)]
    lanes: Annotated[int, Field(ge=1, le=16)]
    salt: Base64


class _File(Document):
    TYPE: ClassVar[str] = "keystore"
    header: _Header
    sealed: Base64


def _stretch(passphrase: Secret, header: _Header) -> AESGCM:
    key = Argon2id(
        salt=b64decode(header.salt),
        length=32,
        iterations=header.passes,
        lanes=header.lanes,
        memory_cost=header.memory_kib,
    ).derive(passphrase.reveal())
    return AESGCM(key)


def save(identity: Identity, path: Path, passphrase: Secret) -> None:
    """Store ``identity`` at ``path`` (mode 0600) under ``passphrase``.

    Raises:
        InputError: ``key.passphrase`` for an empty passphrase, ``key.exists`` where a file stands.
        HostError: ``file.write``.
    """
    if not len(passphrase):
        raise InputError(
            "key.passphrase",
            expected="a passphrase",
            observed="an empty one",
            next_step="give the passphrase that the key was saved with; it is never empty",
        )
    header = _Header(
        version="svetovid.keystore/v1",
        name=identity.name,
        signing=identity.key_id,
        kdf="argon2id",
        memory_kib=64 << 10,
        passes=3,
        lanes=4,
        salt=b64encode(secrets.token_bytes(16)),
    )
    nonce = secrets.token_bytes(12)
    seeds = identity.signing_seed.reveal() + identity.receiving.seed.reveal()
    sealed = nonce + _stretch(passphrase, header).encrypt(nonce, seeds, header.canonical())
    file = _File(header=header, sealed=b64encode(sealed))
    try:
        write_private(path, canonical(file.to_json()), replace=False)
    except InputError as e:
        raise InputError(
            "key.exists",
            expected="no file yet",
            observed=str(path),
            next_step="choose another home",
        ) from e


def load(path: Path, passphrase: Secret) -> Identity:
    """Read an identity back.

    Raises:
        InputError: ``key.file`` where it is missing, no plain file or open to others; ``json.*``
            or ``document.invalid`` where it is too large or in another form.
        IntegrityError: ``key.passphrase`` for a wrong passphrase or an altered file.
    """
    try:
        # Without NONBLOCK a FIFO of this name would hold the caller for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as e:
        raise InputError(
            "key.file",
            expected=f"an identity at {path}",
            observed=e.strerror or "unreadable",
            next_step="svetovid identity create NAME",
        ) from e
    try:
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                "key.file",
                expected="a plain file",
                observed=stat.filemode(status.st_mode),
                next_step="name the key file itself, not a link or a folder",
            )
        if mode & 0o077:
            raise InputError(
                "key.file", expected="mode 0600", observed=oct(mode), next_step=f"chmod 600 {path}"
            )
        data = os.read(fd, _MAX_FILE + 1)
    finally:
        os.close(fd)
    file = _File.parse(data, max_bytes=_MAX_FILE)
    sealed = b64decode(file.sealed)
    try:
        seeds = _stretch(passphrase, file.header).decrypt(
            sealed[:12], sealed[12:], file.header.canonical()
        )
    except (InvalidTag, ValueError) as e:
        raise IntegrityError(
            "key.passphrase",
            expected="the passphrase this identity was stored under",
            next_step="try again, or restore the file from a backup",
        ) from e
    identity = Identity(file.header.name, Secret(seeds[:32]), ReceivingKey(Secret(seeds[32:])))
    if identity.key_id != file.header.signing:
        raise IntegrityError(
            "key.passphrase",
            expected=file.header.signing,
            observed=identity.key_id,
            next_step="the file was changed after it was written: restore a backup",
        )
    return identity
