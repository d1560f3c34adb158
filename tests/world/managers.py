"""A manager of the world: its store and its wire can be looked at and changed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from managers import LocalManager
from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer, Settings
from svetovid.protocol.records import LogEntry
from world.tap import Tap

PASSPHRASE = "canary passphrase of the manager"


class CountingSealer:
    """Seals like the passphrase one, and has a counter that only goes up, like a TPM's."""

    kind: Literal["passphrase", "tpm"] = "tpm"

    def __init__(self, passphrase: Secret) -> None:
        self._inner = PassphraseSealer(passphrase)
        self._count = 0

    def seal(self, secret: Secret) -> bytes:
        return self._inner.seal(secret)

    def unseal(self, blob: bytes) -> Secret:
        return self._inner.unseal(blob)

    def counter(self) -> int | None:
        return self._count

    def increment(self) -> int:
        self._count += 1
        return self._count


class WorldManager(LocalManager):
    """One manager of the world, and its store in its administrator's hands.

    Args:
        counter: whether its root key's keeper can count, so that an older store is noticed (T15).
    """

    def __init__(
        self, name: str, folder: Path, clock: Callable[[], int], *, counter: bool = False
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        sealer = CountingSealer if counter else PassphraseSealer
        super().__init__(
            name,
            self.folder / "store.db",
            clock,
            settings=Settings(open_challenges=256),
            sealer=sealer(Secret(PASSPHRASE.encode())),
        )
        self.transport = self.tap = Tap(self.transport)

    # -- the store, as its administrator has it in hand

    def backup(self) -> Path:
        """A copy of the store as it stands."""
        copy = self.folder / f"backup-{secrets.token_hex(4)}.db"
        with (
            contextlib.closing(sqlite3.connect(self.store)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy

    def restore(self, copy: Path) -> None:
        """Put a copy in the store's place. The manager must be stopped."""
        for suffix in ("-wal", "-shm"):
            Path(str(self.store) + suffix).unlink(missing_ok=True)
        shutil.copy(copy, self.store)

    def sql(self, statement: str, *values: Any) -> None:
        """What an administrator with a database tool does."""
        with sqlite3.connect(self.store) as connection:
            connection.execute(statement, values)
        connection.close()

    # -- what it recorded

    def entries(self, first: int = 0) -> list[LogEntry]:
        store = self.manager._store
        return [store.entry(i) for i in range(first, store.size)]

    @property
    def size(self) -> int:
        return self.manager._store.size
