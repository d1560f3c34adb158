"""A manager of the world: the real one over a file, in this process, with a folder of its own."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from inprocess import InProcess
from softtpm import SoftCa
from svetovid.crypto import Identity, Secret, b64encode
from svetovid.manager import Manager, PassphraseSealer, RootKey, Settings, make_app
from svetovid.protocol import ManagerClient, ManagerPin
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


class WorldManager:
    """One manager. ``stop``, ``start`` and ``restart`` keep the store; ``backup`` copies it.

    Args:
        counter: whether its root key's keeper can count, so that an older store is noticed (T15).
    """

    def __init__(
        self, name: str, folder: Path, clock: Callable[[], int], *, counter: bool = False
    ) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self._clock = clock
        self.identity = Identity.generate(name)
        self.root_secret = Secret.random(32)
        sealer = CountingSealer if counter else PassphraseSealer
        self.sealer = sealer(Secret(PASSPHRASE.encode()))
        self.settings = Settings(open_challenges=256)
        self.pin = ManagerPin(
            card=self.identity.signed_card(),
            tls_certificate=b64encode(SoftCa(f"{name}'s TLS").der),
            url=f"https://{name}.test",
        )
        self._transport: InProcess | None = None
        self._old: list[InProcess] = []
        self.tap = Tap(self._running)
        self.start()

    @property
    def store(self) -> Path:
        return self.folder / "store.db"

    @property
    def key_id(self) -> str:
        return self.identity.key_id

    def _running(self) -> InProcess:
        assert self._transport is not None
        return self._transport

    def open(self, **more: Any) -> Manager:
        """Another manager process over the same store: a replica."""
        return Manager(
            self.store,
            self.identity,
            RootKey(self.root_secret),
            self.sealer,
            channel=self.pin.channel,
            clock=self._clock,
            settings=self.settings,
            **more,
        )

    def start(self, **more: Any) -> None:
        self.manager = self.open(**more)
        self._transport = InProcess(make_app(self.manager))
        self._old.append(self._transport)

    def stop(self) -> None:
        self.manager.close()

    def restart(self, **more: Any) -> None:
        self.stop()
        self.start(**more)

    def close(self) -> None:
        self.stop()
        for transport in self._old:
            transport.close()

    def client(self, identity: Identity, **more: Any) -> ManagerClient:
        return ManagerClient(self.pin, identity, transport=self.tap, clock=self._clock, **more)

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
